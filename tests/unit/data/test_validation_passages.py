from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.data.validation.passages import BenchmarkTask, Passages

WORDS = st.sampled_from(["a", "b", "c", "1"])
TEXTS = st.lists(WORDS, max_size=30).map(" ".join)


def shares_passage(text: Sequence[str], benchmark: Sequence[str]) -> set[tuple[str, ...]]:
    """Naively: every run of 13 words, or the whole of a text of 5 to 12, unless it is all numbers."""
    size = min(len(benchmark), 13)
    if size < 5:
        return set()
    windows = {tuple(text[start : start + size]) for start in range(len(text) - size + 1)}
    runs = {tuple(benchmark[start : start + size]) for start in range(len(benchmark) - size + 1)}
    return {run for run in runs & windows if set(run) != {"1"}}


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=3), st.lists(WORDS, max_size=60), st.data())
def test_passages_are_found_as_a_naive_search_finds_them(
    texts: list[str], words: list[str], data: st.DataObject
) -> None:
    if texts:  # put one of the texts, or a part, somewhere inside
        planted = data.draw(st.sampled_from(texts)).split()[data.draw(st.integers(0, 3)) :]
        place = data.draw(st.integers(0, len(words)))
        words = words[:place] + planted + words[place:]
    passages = Passages(BenchmarkTask(f"task {n}", True, (text,)) for n, text in enumerate(texts))
    expected = {run for text in texts for run in shares_passage(words, text.split())}
    found = passages.found_in(words)
    assert {passages.words[number] for number in found} == expected
    for number in found:
        naive = [n for n, text in enumerate(texts) if passages.words[number] in shares_passage(words, text.split())]
        assert [task.task_id for task in passages.tasks[number]] == [f"task {n}" for n in naive]


def test_thirteen_words_are_a_passage_wherever_they_stand_and_twelve_are_not() -> None:
    text = [f"word{number}" for number in range(20)]
    passages = Passages([BenchmarkTask("HumanEval/0", True, (" ".join(text),))])
    for before in range(15):
        around = ["other"] * before
        assert len(passages.found_in(around + text[4:17])) == 1
        assert not passages.found_in(around + text[4:16])


def test_case_and_punctuation_do_not_hide_a_passage() -> None:
    passages = Passages([BenchmarkTask("mbpp_11", True, ("Write a function, to add: two NUMBERS!",))])
    assert passages.found_in(["please", "write", "a", "function", "to", "add", "two", "numbers", "now"]) == {0}
