"""What a reader of a rank's stream puts into prompts, as Ray Data's task does it, without Ray."""

from pathlib import Path

import numpy as np
import pytest

from actors.rank_stream import _offset_table, _read_and_tokenise, _rows_of
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.told_index import told_index
from wmtp_ray.data.trained_rows import TrainedRows


@pytest.mark.parametrize("told", ["nothing", "own"])
def test_a_stream_reads_the_tokens_that_its_plan_counts(tmp_path: Path, told: str) -> None:
    tasks = ListTasks(
        seed=3, num_train_problems=4, num_valid_problems=2, num_correct=2, num_incorrect=2, systematic_frac=0
    )
    path = write_list_tasks(tmp_path / "tasks", tasks).train
    train_tokenizer(path.read_text().splitlines(), tmp_path / "tokenizer.model", 385)
    tokenizer = CodeTokenizer(tmp_path / "tokenizer.model")
    index = ensure_index(path, tokenizer, on_error="fail")
    rows = range(len(index) - 1, -1, -1)
    table = _offset_table(list(rows), index)
    block = _read_and_tokenise(
        table, index.path, index.file_fingerprint, str(tokenizer.model_path), run_dir=None, told=told
    )
    read = list(_rows_of(block))
    counted = told_index(index, told, tokenizer)
    assert [len(each.tokens_T) for each in read] == counted.num_tokens_R[list(rows)].tolist()
    lines = ["### Label: correct" if each.is_correct else "### Label: incorrect" for each in read]
    prompts = [tokenizer.decode(each.tokens_T[: each.prompt_tokens].tolist()) for each in read]
    assert [line in prompt for line, prompt in zip(lines, prompts, strict=True)] == [told == "own"] * len(read)
    assert all("### Label" in prompt for prompt in prompts) == (told == "own")


def test_a_stream_reads_chats_where_its_plan_counts_chats(tmp_path: Path) -> None:
    tasks = ListTasks(
        seed=3, num_train_problems=4, num_valid_problems=2, num_correct=2, num_incorrect=2, systematic_frac=0
    )
    path = write_list_tasks(tmp_path / "tasks", tasks).train
    train_tokenizer(path.read_text().splitlines(), tmp_path / "tokenizer.model", 385)
    template = "{% for m in messages %}{{ bos_token }}{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template + "{{ bos_token }}assistant\n")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    chats = CodeTokenizer(tmp_path / "tokenizer.model", "chat")
    index = ensure_index(path, chats, on_error="fail")
    rows = np.arange(len(index))
    table = _offset_table(rows, index)
    block = _read_and_tokenise(
        table, index.path, index.file_fingerprint, str(chats.model_path), run_dir=None, template="chat"
    )
    read = list(_rows_of(block))
    assert [len(each.tokens_T) for each in read] == index.num_tokens_R.tolist()
    for example, same in zip(read, TrainedRows(index, "nothing", None).read(rows, chats), strict=True):
        assert example.tokens_T.tolist() == same.tokens_T.tolist()
        tokens = example.tokens_T.tolist()
        assert (tokens.count(chats.bos_id), tokens.count(chats.eos_id)) == (2, 2)
        assert example.prompt_tokens == index.prompt_tokens_R[example.row_id]
