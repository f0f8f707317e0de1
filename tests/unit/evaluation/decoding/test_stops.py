import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.evaluation.decoding.conftest import World
from wmtp_ray.evaluation.decoding.stops import StopFinder, cut_at_stop

FIRST_BYTE_ID, NUM_PIECES = 3, 320


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    prompt=st.sampled_from(["", "def f(x):\n    ", "# naïve €", " "]),
    ids=st.lists(st.integers(FIRST_BYTE_ID, NUM_PIECES - 1), min_size=1, max_size=60),
)
def test_a_stop_string_is_noticed_at_the_token_that_completes_it(
    world: World, data: st.DataObject, prompt: str, ids: list[int]
) -> None:
    """Against decoding everything at every token. Half of the pieces are bytes: most characters come out broken."""
    tokenizer = world.tokenizer
    prompt_ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    whole = tokenizer.decode_continuation(prompt_ids, ids).replace("\ufffd", "")
    begin = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    stop = (whole[begin : begin + data.draw(st.integers(1, 6))] or "x", "\ndef")
    finder = StopFinder(tokenizer, stop)
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode_continuation(prompt_ids, ids[:end])
        expected = any(string in text for string in stop)
        assert finder.found(prompt_ids, ids[:end]) == expected
        if expected:
            break


@pytest.mark.parametrize("broken", [1, 2])
def test_a_broken_character_hides_no_stop_string_behind_it(world: World, broken: int) -> None:
    tokenizer = world.tokenizer
    euro = [FIRST_BYTE_ID + byte for byte in "€".encode()]
    newline_def = [FIRST_BYTE_ID + byte for byte in b"\ndef"]
    ids = [*tokenizer.encode("return a"), *euro[:broken], *newline_def]
    finder = StopFinder(tokenizer, ("\ndef",))
    assert finder.found([tokenizer.bos_id], ids)
    assert not finder.found([tokenizer.bos_id], ids[:-1])
    assert StopFinder(tokenizer, ("€\n",)).found([tokenizer.bos_id], [*euro, *newline_def[:1]])


def test_a_stop_string_that_begins_in_the_prompt_does_not_count(world: World) -> None:
    tokenizer = world.tokenizer
    prompt_ids = [tokenizer.bos_id, *tokenizer.encode("x\nde")]
    finder = StopFinder(tokenizer, ("\ndef", "x"))
    assert not finder.found(prompt_ids, tokenizer.encode("f"))
    assert finder.found(prompt_ids, tokenizer.encode("f\ndef"))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("ab\ndef\nclass", ("\nclass", "\ndef"), "ab"),
        ("ab\ndef\nclass", ("\ndef", "b\nd"), "a"),
        ("abab", ("b",), "a"),
        ("ab", ("c",), "ab"),
        ("ab", (), "ab"),
        ("ab", ("ab",), ""),
    ],
)
def test_a_text_is_cut_at_the_stop_string_that_begins_first(text: str, stop: tuple[str, ...], expected: str) -> None:
    assert cut_at_stop(text, stop) == expected
