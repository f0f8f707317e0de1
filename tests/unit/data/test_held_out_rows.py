"""The rows that stage 1 reads its loss on: whole pairs where the loss compares pairs, and none is a refusal."""

from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.held_out_rows import held_out_rows, rows_of_readings
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import PlanError


def configured(root: Path, *words: str, num_incorrect: int = 2) -> RunConfig:
    tasks = ListTasks(
        seed=3,
        num_train_problems=20,
        num_valid_problems=6,
        num_correct=2,
        num_incorrect=num_incorrect,
        systematic_frac=0,
    )
    files = write_list_tasks(root / "datasets_local_small" / "list_tasks", tasks)
    path = root / "tokenizer.model"
    train_tokenizer(files.train.read_text().splitlines(), path, 385)
    ensure_index(files.valid, CodeTokenizer(path), on_error="fail")
    given = ["recipe=verifiable", "preset=quickstart", f"storage_root={root}", "critic_stage.eval_every=5", *words]
    return load_config(parse_arguments(given), now=datetime(2026, 1, 1))


def test_a_loss_of_pairs_is_read_on_whole_pairs_that_fit_a_batch(tmp_path: Path) -> None:
    plain = configured(tmp_path)
    index, all_rows = held_out_rows(plain)
    assert rows_of_readings(plain)[1].tolist() == all_rows.tolist()
    longest = int(index.num_tokens_R[all_rows].max())
    words = ("critic.objective=pairwise", "data.max_tokens=400", f"train.micro_batch_tokens={max(400, longest)}")
    _, rows = rows_of_readings(configured(tmp_path, *words))
    assert len(rows) > 0
    for first, second in rows.reshape(-1, 2):
        assert index.problem_R[first] == index.problem_R[second]
        assert index.is_correct_R[first] != index.is_correct_R[second]
        assert index.num_tokens_R[first] + index.num_tokens_R[second] <= max(400, longest)


def test_readings_without_held_out_rows_of_both_labels_are_refused(tmp_path: Path) -> None:
    config = configured(tmp_path, num_incorrect=0)
    with pytest.raises(PlanError, match=r"critic_stage.eval_every=5 reads the loss.*or set critic_stage.eval_every=0"):
        rows_of_readings(config)
