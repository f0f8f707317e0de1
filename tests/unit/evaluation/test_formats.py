"""Which format a policy is asked in: by what its tokenizer does to the prompts, by its template, by its origin."""

from pathlib import Path

import pytest

from tests.byte_level_tokenizer import write_byte_level
from tests.unit.evaluation.examples import (
    humaneval_file,
    instruction_record,
    mbpp_file,
    mbpp_plus_record,
    mbpp_record,
    write_lines,
)
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.rows import Row
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.formats import Asked, choose_format, without_shown
from wmtp_ray.evaluation.problems import ProblemSet, read_problems
from wmtp_ray.evaluation.prompts import FORMATS

AUTO = dict.fromkeys(("humaneval", "mbpp", "codecontests", "instruction"), "auto")
TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}<|assistant|>"


def chosen(problems: ProblemSet, asked: Asked | None, formats=AUTO) -> tuple[str, str]:
    found = choose_format(problems, formats, asked)
    return found.format.name, found.reason


@pytest.fixture
def sentencepiece(tmp_path: Path) -> CodeTokenizer:
    texts = [each.reference for each in read_problems(humaneval_file(tmp_path, 40)).problems]
    train_tokenizer(texts, tmp_path / "sp" / "tokenizer.model", 300)
    return CodeTokenizer(tmp_path / "sp" / "tokenizer.model")


@pytest.fixture
def byte_level(tmp_path: Path) -> CodeTokenizer:
    """Its merges know a newline with the blanks behind it."""
    return CodeTokenizer(write_byte_level(tmp_path / "bytes"))


def with_template(tokenizer: CodeTokenizer) -> CodeTokenizer:
    (tokenizer.model_path.parent / "chat_template.jinja").write_text(TEMPLATE)
    return tokenizer


@pytest.mark.parametrize("name", ["auto", "instruct"])
def test_a_policy_that_was_told_labels_is_asked_for_correct_programs(tmp_path, sentencepiece, name):
    problems = read_problems(humaneval_file(tmp_path))
    formats = {"humaneval": name}
    told = choose_format(problems, formats, Asked(sentencepiece, is_trained=True, condition="label"))
    plain = choose_format(problems, formats, Asked(sentencepiece, is_trained=True))
    assert (told.format.name, told.format.label, plain.format.label) == (plain.format.name, "correct", None)
    assert told.reason == f"{plain.reason}; it asks for correct programs (data.condition=label)"


def test_a_policy_that_was_trained_on_chats_is_asked_in_the_chats_of_its_rows(tmp_path, byte_level):
    problems, tokenizer = read_problems(humaneval_file(tmp_path)), with_template(byte_level)
    asked = Asked(tokenizer, is_trained=True, template="chat")
    found = choose_format(problems, {"humaneval": "auto"}, asked)
    assert (found.format.name, "data.template=chat" in found.reason) == ("chat", True)
    problem = problems.problems[0]
    ids = found.format.prompt_ids(problem, problems, tokenizer)
    assert ids == tuple(tokenizer.chat_rows.prompt_ids(found.format.text(problem, problems)).tolist())
    row = Row(found.format.text(problem, problems), "", "x = 1", "a_correct_0", True, "", 1, True, 3, 0, "")
    example = encode_row(row, CodeTokenizer(tokenizer.model_path, "chat"), 0)
    assert ids == tuple(example.tokens_T[: example.prompt_tokens].tolist()), "asked as it was trained"
    assert choose_format(problems, {"humaneval": "instruct"}, asked).format.name == "instruct", "unless told otherwise"


def test_a_tokenizer_that_cuts_at_newlines_continues_the_head_as_published(tmp_path, sentencepiece):
    name, reason = chosen(read_problems(humaneval_file(tmp_path)), Asked(sentencepiece, is_trained=False))
    assert (name, reason[:4]) == ("completion", "auto")


def test_a_tokenizer_that_merges_a_newline_with_blanks_continues_the_stripped_head(tmp_path, byte_level):
    problems = read_problems(humaneval_file(tmp_path))
    head = problems.problems[0].prompt
    whole = byte_level.encode(problems.problems[0].reference)
    assert whole[: len(byte_level.encode(head))] != byte_level.encode(head), "what makes answers end after two tokens"
    for is_trained in (False, True):
        name, reason = chosen(problems, Asked(byte_level, is_trained))
        assert name == "completion-stripped"
        assert "in 3 of 3 problems a token spans the end of the prompt" in reason
        assert reason.endswith("of the stripped prompt in 0")
    name, reason = chosen(problems, Asked(byte_level, is_trained=False), {"humaneval": "completion"})
    assert name == "completion"
    assert reason.startswith("asked for, although in 3 of 3 problems a token spans"), "obeyed, and said"


def test_an_imported_chat_model_is_asked_in_its_template_and_one_trained_here_in_that_of_its_rows(tmp_path, byte_level):
    heads = read_problems(humaneval_file(tmp_path))
    words = read_problems(write_lines(tmp_path / "words.jsonl", [instruction_record(1)]))
    templated = with_template(byte_level)
    for problems in (heads, words, read_problems(mbpp_file(tmp_path))):
        assert chosen(problems, Asked(templated, is_trained=False))[0] == "chat"
    assert chosen(heads, Asked(templated, is_trained=True))[0] == "completion-stripped"
    assert chosen(words, Asked(templated, is_trained=True))[0] == "instruct"


def test_mbpp_shows_its_examples_where_the_file_has_them_and_does_not_ask_them(tmp_path, sentencepiece):
    asked = Asked(sentencepiece, is_trained=True)
    assert chosen(read_problems(mbpp_file(tmp_path)), asked)[0] == "mbpp-3shot"
    no_examples = read_problems(write_lines(tmp_path / "m.jsonl", [mbpp_record(n) for n in (2, 4, 11)]))
    assert chosen(no_examples, asked)[0] == "mbpp-0shot"
    plus = read_problems(write_lines(tmp_path / "plus.jsonl", [mbpp_plus_record(n) for n in (2, 3, 4, 11)]))
    assert chosen(plus, asked)[0] == "mbpp-0shot"
    left = without_shown(plus, FORMATS["mbpp-3shot"])
    assert [each.task_id for each in left.problems] == ["Mbpp/11"]
    assert left.left_out == ("3 that the prompt shows",)
    assert without_shown(plus, FORMATS["mbpp-0shot"]) == plus


def test_a_format_that_is_named_is_taken_or_refused_with_those_that_fit(tmp_path, sentencepiece):
    problems, asked = read_problems(humaneval_file(tmp_path)), Asked(sentencepiece, is_trained=False)
    assert chosen(problems, asked, {"humaneval": "completion-stripped"}) == ("completion-stripped", "asked for")
    with pytest.raises(ConfigError, match=r"mbpp-3shot does not fit .*choose one of completion, completion-stripped"):
        chosen(problems, asked, {"humaneval": "mbpp-3shot"})
    with pytest.raises(ConfigError, match="names no format for humaneval"):
        chosen(problems, asked, {"mbpp": "mbpp-3shot"})
    with pytest.raises(ConfigError, match="has no chat template"):
        chosen(problems, asked, {"humaneval": "chat"})
    no_examples = read_problems(write_lines(tmp_path / "m.jsonl", [mbpp_record(n) for n in (2, 4, 11)]))
    with pytest.raises(ConfigError, match="lacks some of the examples Mbpp/2, Mbpp/3, Mbpp/4"):
        chosen(no_examples, asked, {"mbpp": "mbpp-3shot"})


def test_answers_that_exist_need_no_tokenizer(tmp_path):
    assert chosen(read_problems(humaneval_file(tmp_path)), None)[0] == "completion"
