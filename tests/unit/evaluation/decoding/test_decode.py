"""Shape suffixes: B rows, V vocabulary."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.unit.evaluation.decoding.conftest import World, random_model
from vendor.meta_llama import generate
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings, decode
from wmtp_ray.evaluation.decoding.decode import Propose, decode_proposed

GREEDY = DecodingSettings(max_new_tokens=23, temperature=0.0, top_p=1.0, stop=(), draft_horizons=0)
SAMPLED = replace(GREEDY, temperature=0.8, top_p=0.9)
DTYPES = [torch.float64, torch.float32]


def by_key(
    world: World,
    settings: DecodingSettings,
    requests: Sequence[DecodingRequest] | None = None,
    *,
    batch_size: int = 3,
    propose: Propose | None = None,
) -> dict[str, Decoded]:
    requests = world.requests() if requests is None else requests
    if propose is None:
        decoded = decode(world.model, world.tokenizer, requests, settings, batch_size=batch_size)
    else:
        decoded = decode_proposed(
            world.model, world.tokenizer, requests, settings, batch_size=batch_size, propose=propose
        )
    found = {each.key: each for each in decoded}
    assert set(found) == {request.key for request in requests}
    return found


def outcomes(found: dict[str, Decoded]) -> dict[str, tuple[object, ...]]:
    """All that must not depend on how it was decoded."""
    return {key: (each.ids, each.raw_text, each.text, each.finish) for key, each in found.items()}


class Oracle:
    """Drafts the tokens that are known to come, each wrong with a probability that differs between requests."""

    def __init__(self, known: dict[str, Decoded], eos_id: int, wrong: float) -> None:
        self._known, self._eos_id, self._wrong = known, eos_id, wrong
        self._random = random.Random(0)

    def __call__(self, request: DecodingRequest, ids: Sequence[int], drafts: Sequence[int]) -> list[int]:
        begin = len(ids)
        right = [*self._known[request.key].ids[begin:], *[self._eos_id] * len(drafts)][: len(drafts)]
        wrong = self._wrong * (request.seed % 3) / 2
        return [self._random.randrange(300) if self._random.random() < wrong else token for token in right]


@pytest.mark.parametrize("dtype", DTYPES)
def test_greedy_decoding_equals_one_prompt_after_the_other(world: World, dtype: torch.dtype) -> None:
    world = world.to(dtype)
    prompts = [request.prompt_ids for request in world.requests()]
    expected = generate(world.model, prompts, eos_id=world.tokenizer.eos_id, max_new_tokens=23, temperature=0.0)
    found = by_key(world, GREEDY)
    assert [list(found[request.key].ids) for request in world.requests()] == expected
    assert {each.finish for each in found.values()} == {"end", "length"}, "the fixture should do both"


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_drafts_of_the_heads_change_no_token(world: World, dtype: torch.dtype, settings: DecodingSettings) -> None:
    world = world.to(dtype)
    num_accepted = 0
    for limit in (1, 7, 23):
        plain = by_key(world, replace(settings, max_new_tokens=limit))
        for draft_horizons in (1, 2, 3):
            drafted = by_key(world, replace(settings, max_new_tokens=limit, draft_horizons=draft_horizons))
            assert outcomes(drafted) == outcomes(plain)
            num_accepted += sum(sum(each.accepted_H) for each in drafted.values())
    assert num_accepted > 0 or settings == SAMPLED, "the fixture's heads should be right at times"


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_window": 9, "attention_head_dim": 12},
        {"qkv_bias": True, "query_key_norm": "head", "rope_scaling_factor": 4.0},
        {"blocks_without_rope": (1, 3, 4), "mlp_bias": True, "attention_output_bias": True},
        {"query_key_norm": "width", "norm_after": True},
    ],
)
def test_models_of_every_family_decode_and_draft_the_same_tokens(world: World, changes: dict[str, Any]) -> None:
    """Batched, cached and drafted, against one prompt after the other; texts are longer than the window."""
    model = random_model(world.tokenizer.vocab_size, world.tokenizer.eos_id, end_scale=1.5, **changes).double()
    family = World(model, world.tokenizer)
    prompts = [request.prompt_ids for request in family.requests()]
    expected = generate(model, prompts, eos_id=world.tokenizer.eos_id, max_new_tokens=23, temperature=0.0)
    for draft_horizons in (0, 1, 3):
        found = by_key(family, replace(GREEDY, draft_horizons=draft_horizons))
        assert [list(found[request.key].ids) for request in family.requests()] == expected
    assert sum(map(len, expected)) > 60


@pytest.mark.parametrize("wrong", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_drafts_give_the_same_tokens(
    world: World, dtype: torch.dtype, settings: DecodingSettings, wrong: float
) -> None:
    """Right drafts, random ones, and batches in which some rows accept all and others nothing."""
    world = world.to(dtype)
    requests = world.requests(num_samples=2)
    plain = by_key(world, settings, requests)
    for draft_horizons in (1, 3):
        oracle = Oracle(plain, world.tokenizer.eos_id, wrong)
        settings = replace(settings, draft_horizons=draft_horizons)
        drafted = by_key(world, settings, requests, batch_size=5, propose=oracle)
        assert outcomes(drafted) == outcomes(plain)
        for key, each in drafted.items():
            assert each.num_tokens == plain[key].num_forwards
            if wrong == 0.0:
                assert each.num_forwards == 1 + math.ceil((each.num_tokens - 1) / (1 + draft_horizons))


@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_drafts_are_what_a_pass_over_the_whole_text_says(world: World, wrong: float) -> None:
    """After every mix of accepted and rejected drafts, all heads' caches are as if the text had been read at once."""
    world = world.to(torch.float64)
    oracle = Oracle(by_key(world, GREEDY), world.tokenizer.eos_id, wrong)
    num_checked = 0

    def check(request: DecodingRequest, ids: Sequence[int], drafts: Sequence[int]) -> list[int]:
        nonlocal num_checked
        with torch.no_grad():
            read = torch.tensor([[*request.prompt_ids, *ids[:-1]]])
            logits_HV = world.model(read, return_all_heads=True)[0, -1]
        assert [ids[-1], *drafts] == logits_HV.argmax(dim=-1).tolist()
        num_checked += 1
        return oracle(request, ids, drafts)

    by_key(world, replace(GREEDY, draft_horizons=3), propose=check)
    assert num_checked > 20


@pytest.mark.parametrize("draft_horizons", [0, 2])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_depend_on_no_batch_and_no_order(
    world: World, dtype: torch.dtype, settings: DecodingSettings, draft_horizons: int
) -> None:
    world, settings = world.to(dtype), replace(settings, draft_horizons=draft_horizons)
    settings = replace(settings, max_new_tokens=11)
    requests = world.requests(num_samples=2)
    expected = by_key(world, settings, requests[:6], batch_size=1) | by_key(world, settings, requests[6:], batch_size=1)
    for batch_size in (3, 8):
        random.Random(batch_size).shuffle(requests)
        assert by_key(world, settings, requests, batch_size=batch_size) == expected


def test_samples_of_one_prompt_differ_and_repeat(world: World) -> None:
    requests = world.requests(num_samples=4)
    found = by_key(world, SAMPLED, requests)
    assert len({found[f"5/{sample}"].ids for sample in range(4)}) > 1
    assert by_key(world, SAMPLED, requests) == found
    assert found["1/0"].ids != found["5/0"].ids, "equal prompts, seeds of different problems"


def test_low_temperature_is_greedy(world: World) -> None:
    greedy = by_key(world, GREEDY)
    for top_p in (0.5, 1.0):
        cold = by_key(world, replace(SAMPLED, temperature=1e-6, top_p=top_p, draft_horizons=2))
        assert outcomes(cold) == outcomes(greedy)


def continuations(
    world: World, prompt: tuple[int, ...], limit: int, temperature: float
) -> dict[tuple[int, ...], float]:
    """The probability of every continuation of at most `limit` tokens, by full forwards over all of them."""
    eos_id, probabilities = world.tokenizer.eos_id, dict[tuple[int, ...], float]()

    def extend(ids: tuple[int, ...], probability: float) -> None:
        if len(ids) == limit:
            probabilities[ids] = probability
            return
        with torch.no_grad():
            logits_V = world.model(torch.tensor([[*prompt, *ids]]))[0, -1, 0].double()
        for token, share in enumerate((logits_V / temperature).softmax(-1).tolist()):
            if token == eos_id:
                probabilities[ids] = probability * share
            else:
                extend((*ids, token), probability * share)

    extend((), 1.0)
    return probabilities


@pytest.mark.parametrize("draft_horizons", [0, 2])
def test_sampling_keeps_the_distribution(tiny_world: World, draft_horizons: int) -> None:
    """Chi-square over all continuations of two tokens; rare ones are counted together."""
    world, prompt, num_samples = tiny_world.to(torch.float64), (tiny_world.tokenizer.bos_id, 4), 2000
    requests = [DecodingRequest(str(seed), prompt, seed) for seed in range(num_samples)]
    settings = replace(SAMPLED, max_new_tokens=2, temperature=1.5, top_p=1.0, draft_horizons=draft_horizons)
    found = Counter(each.ids for each in by_key(world, settings, requests, batch_size=500).values())
    probabilities = continuations(world, prompt, 2, 1.5)
    assert sum(probabilities.values()) == pytest.approx(1.0)
    assert set(found) <= set(probabilities)
    common = [ids for ids, probability in probabilities.items() if probability * num_samples >= 5]
    cells = [(found[ids], probabilities[ids] * num_samples) for ids in common]
    cells.append((num_samples - sum(n for n, _ in cells), num_samples - sum(expected for _, expected in cells)))
    chi_square = sum((count - expected) ** 2 / expected for count, expected in cells if expected > 1)
    degrees = len(cells) - 1
    assert degrees > 10
    assert chi_square < degrees + 3 * math.sqrt(2 * degrees)


def test_a_row_ends_at_the_token_that_completes_a_stop_string(world: World) -> None:
    """Against a naive search through every prefix of the unstopped text; stops within tokens and across them."""
    unstopped = by_key(world, SAMPLED, world.requests(num_samples=2))
    texts = [each.raw_text for each in unstopped.values() if len(each.raw_text) > 12]
    stop = (texts[0][5:8], texts[1][6:7], texts[2][2:6])
    prompts = {request.key: request.prompt_ids for request in world.requests(num_samples=2)}
    for draft_horizons in (0, 3):
        settings = replace(SAMPLED, stop=stop, draft_horizons=draft_horizons)
        oracle = Oracle(unstopped, world.tokenizer.eos_id, 0.3)
        found = by_key(world, settings, world.requests(num_samples=2), propose=oracle)
        for key, each in found.items():
            prefixes = [unstopped[key].ids[:end] for end in range(len(unstopped[key].ids) + 1)]
            decoded = [world.tokenizer.decode_continuation(prompts[key], prefix) for prefix in prefixes]
            stopped = [end for end, text in enumerate(decoded) if any(string in text for string in stop)]
            assert each.ids == prefixes[stopped[0] if stopped else -1]
            assert each.finish == ("stop" if stopped else unstopped[key].finish)
            begins = [begin for begin in map(each.raw_text.find, stop) if begin >= 0]
            assert each.text == each.raw_text[: min(begins, default=None)]
        assert Counter(each.finish for each in found.values())["stop"] >= 3


def test_a_row_ends_at_the_line_with_which_its_request_is_finished(world: World) -> None:
    """Against the text of every prefix; with drafts as without."""
    settings = replace(SAMPLED, max_new_tokens=60)
    requests = world.requests(num_samples=4)
    whole = by_key(world, settings, requests)
    asked = [replace(request, is_finished=lambda text: text.count("\n") > 1) for request in requests]
    for draft_horizons in (0, 2):
        found = by_key(world, replace(settings, draft_horizons=draft_horizons), asked)
        ended = 0
        for request in requests:
            ids = whole[request.key].ids
            texts = [world.tokenizer.decode_continuation(request.prompt_ids, ids[:end]) for end in range(len(ids) + 1)]
            ends = [end for end, text in enumerate(texts) if text.count("\n") > 1]
            assert found[request.key].ids == ids[: ends[0] if ends else len(ids)]
            assert found[request.key].finish == ("stop" if ends else whole[request.key].finish)
            ended += bool(ends)
        assert ended >= 1, "the fixture should do it"


def test_a_stop_string_in_the_prompt_does_not_count(world: World) -> None:
    settings = replace(GREEDY, stop=("def f(x):", "return a + b\n"))
    assert outcomes(by_key(world, settings)) == outcomes(by_key(world, GREEDY))


@pytest.mark.parametrize("first", ["stop", "end"])
def test_of_a_stop_string_and_the_end_in_one_block_the_first_counts(world: World, first: str) -> None:
    """All drafts are right: one block holds the last tokens of the text, its end, and whatever is drafted after it."""
    unstopped = by_key(world, GREEDY)
    key, ended = next((key, each) for key, each in unstopped.items() if each.finish == "end" and len(each.ids) > 5)
    stop = ended.raw_text[-2:] if first == "stop" else ended.raw_text + "x"
    settings = replace(GREEDY, stop=(stop,), draft_horizons=3)
    eos_id, proposed = world.tokenizer.eos_id, list[Sequence[int]]()

    def propose(request: DecodingRequest, ids: Sequence[int], drafts: Sequence[int]) -> list[int]:
        rest = [*ended.ids[len(ids) :], eos_id, *world.tokenizer.encode("xxx")]
        proposed.append(rest[:3])
        return rest[:3]

    requests = [request for request in world.requests() if request.key == key]
    found = by_key(world, settings, requests, propose=propose)[key]
    assert found.finish == first
    assert found.text == ended.raw_text.partition(stop)[0]
    assert found.ids == (ended.ids if stop not in ended.raw_text[:-2] else found.ids)
    assert any(eos_id in drafts for drafts in proposed)


def test_pieces_that_the_tokenizer_does_not_have_are_never_chosen(world: World) -> None:
    size = world.tokenizer.vocab_size
    padded = World(random_model(size + 20, world.tokenizer.eos_id), world.tokenizer)
    with torch.no_grad():
        padded.model.output.weight[size:] *= 3.0
    for settings in (GREEDY, replace(SAMPLED, temperature=5.0, draft_horizons=2)):
        found = by_key(padded, settings)
        assert all(token < size for each in found.values() for token in each.ids)
    with torch.no_grad():
        logits_BTV = padded.model(torch.tensor([padded.requests()[2].prompt_ids]))[:, :, 0]
    assert (logits_BTV.argmax(dim=-1) >= size).any(), "the padding should be tempting"


def test_a_result_is_given_out_as_soon_as_it_is_done_and_the_model_comes_back_as_it_was(world: World) -> None:
    world = world.to(torch.float32)
    world.model.train()
    iterator = decode(world.model, world.tokenizer, world.requests(), GREEDY, batch_size=2)
    first = next(iterator)
    assert first.key in {"1/0", "2/0", "3/0", "4/0", "5/0", "6/0", "7/0", "0/0"}
    assert torch.is_grad_enabled()
    iterator.close()
    assert world.model.training
    world.model.eval()
    assert list(decode(world.model, world.tokenizer, [], GREEDY, batch_size=2)) == []
    by_key(world, GREEDY)
    assert not world.model.training


def test_equal_prompts_are_read_once(world: World) -> None:
    reads = list[int]()
    handle = world.model.tok_embeddings.register_forward_hook(
        lambda _module, inputs, _output: reads.append(inputs[0].numel())
    )
    prompt_ids = world.requests()[4].prompt_ids
    requests = [DecodingRequest(str(seed), prompt_ids, seed) for seed in range(6)]
    by_key(world, replace(SAMPLED, max_new_tokens=3), requests, batch_size=2)
    handle.remove()
    assert reads.count(len(prompt_ids)) == 1
    assert max(reads) == len(prompt_ids) > 2


def test_what_cannot_be_decoded_is_refused_before_the_first_result(world: World) -> None:
    requests = world.requests()
    with pytest.raises(ConfigError, match="3 heads beyond horizon 1"):
        decode(world.model, world.tokenizer, requests, replace(GREEDY, draft_horizons=4), batch_size=1)
    with pytest.raises(ValueError, match="empty prompt"):
        decode(world.model, world.tokenizer, [DecodingRequest("a", (), 0)], GREEDY, batch_size=1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        decode(world.model, world.tokenizer, requests, GREEDY, batch_size=0)
    small = random_model(world.tokenizer.vocab_size - 1, 2)
    with pytest.raises(ArtifactError, match="the model was trained with"):
        decode(small, world.tokenizer, requests, GREEDY, batch_size=1)
