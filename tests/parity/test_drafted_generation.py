"""`custom_generate/generate.py` of an export with heads, run by transformers as a user runs it.

The models are tiny and random, of every family; the heads differ from the last layer and from each other.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.byte_level_tokenizer import write_byte_level
from tests.parity.families import FAMILIES, WINDOW, random_model
from wmtp_ray.artifacts.hf.export_model import export_model
from wmtp_ray.artifacts.hf.import_model import import_model
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, read_tensors
from wmtp_ray.model.spec import ModelSpec

transformers = pytest.importorskip("transformers")

NUM_HEADS = 3
PROMPTS = [torch.randint(3, 350, (1, length), generator=torch.Generator().manual_seed(length)) for length in (1, 5, 12)]
assert min(len(prompt[0]) for prompt in PROMPTS) < WINDOW < max(len(prompt[0]) for prompt in PROMPTS)


@pytest.fixture(autouse=True, scope="module")
def copies_of_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Transformers copies generate.py before it runs it: not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        modules = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
        yield


def model_of(name: str, **changes: Any) -> Any:
    """Return the random model of a case, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return random_model(name, **changes)


def exported(theirs: Any, out: Path, *, noise: float = 0.03) -> Path:
    """Import a model of transformers, change its heads, and export it with them to `out` / hf."""
    theirs.save_pretrained(out / "theirs")
    import_model(out / "theirs", out / "ours", num_horizons=NUM_HEADS + 1)
    tensors, generator = read_tensors(out / "ours" / "model.safetensors"), torch.Generator().manual_seed(3)
    for name in sorted(tensors):
        if name.startswith("extra_heads."):
            tensors[name] = tensors[name] + noise * torch.randn(tensors[name].shape, generator=generator)
    export_model(
        ModelSpec.read(out / "ours"), tensors, write_byte_level(out / "tokenizer"), out / "hf", with_heads=True
    )
    return out / "hf"


def loaded(directory: Path) -> Any:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()), report
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(model_of(request.param), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model whose drafts hold now and then, with `drafts` to generate with them."""
    return loaded(exported(model_of("qwen3, all at once"), tmp_path_factory.mktemp("qwen3")))


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that says 7 whatever it reads, and so do its heads: every draft holds."""
    theirs = model_of("llama, llama3", num_hidden_layers=2)
    with torch.no_grad():
        for layer in theirs.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        theirs.model.norm.weight.fill_(1.0)
        theirs.model.embed_tokens.weight[:, 0] = 50.0
        theirs.lm_head.weight[:, 0] = 0.0
        theirs.lm_head.weight[7, 0] = 100.0
    return loaded(exported(theirs, tmp_path_factory.mktemp("constant"), noise=1e-3))


def drafts(model: Any, *inputs: Tensor, **arguments: Any) -> Any:
    return model.generate(*inputs, custom_generate=model.name_or_path, trust_remote_code=True, **arguments)


def test_greedy_tokens_are_those_of_plain_decoding_in_every_family(directory: Path) -> None:
    model, num_accepted, num_drafted = loaded(directory), 0, 0
    for prompt, num_new in itertools.product(PROMPTS, (1, 2, 6, 21)):
        asked = {"max_new_tokens": num_new, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        plain, found = model.generate(prompt, **asked), drafts(model, prompt, **asked)
        assert torch.equal(found.sequences, plain.sequences), (len(prompt[0]), num_new)
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(plain.logits), rtol=1e-4, atol=1e-3)
        for ours, theirs in zip(found.past_key_values.layers, plain.past_key_values.layers, strict=True):
            torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-3)
        num_accepted, num_drafted = num_accepted + found.num_accepted, num_drafted + found.num_drafted
    assert 0 < num_accepted < num_drafted


@torch.no_grad()
def test_the_drafts_are_those_of_our_heads_at_every_position(directory: Path, tmp_path: Path) -> None:
    """Passes and kept drafts follow from the logits of all our heads over the whole text, computed without a cache."""
    import_model(directory, tmp_path / "back")
    ours, model = load_transformer(tmp_path / "back"), loaded(directory)
    for prompt in PROMPTS:
        asked = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
        found = drafts(model, prompt, return_dict_in_generate=True, **asked)
        said_TH = ours(found.sequences, return_all_heads=True)[0].argmax(-1)
        text, end = found.sequences[0], len(found.sequences[0])
        num_passes, num_kept, position = 1, 0, len(prompt[0])  # `position` is the newest decided token's
        while position < end - 1:
            num_drafts = min(NUM_HEADS, end - position - 2)
            right_H = said_TH[position - 1, 1 : num_drafts + 1] == text[position + 1 : position + 1 + num_drafts]
            held = int(right_H.long().cumprod(0).sum())
            num_passes, num_kept, position = num_passes + 1, num_kept + held, position + held + 1
        assert (found.num_forwards, found.num_accepted) == (num_passes, num_kept)
        assert found.tokens_per_forward == 20 / num_passes


def test_drafts_that_always_hold_give_a_pass_as_many_tokens_as_there_are_heads_and_one(constant: Any) -> None:
    asked = {"do_sample": False, "return_dict_in_generate": True, "eos_token_id": None}
    found = drafts(constant, PROMPTS[1], max_new_tokens=9, **asked)
    assert found.sequences[0, 5:].tolist() == [7] * 9
    assert (found.num_forwards, found.tokens_per_forward) == (3, 3.0)  # the prompt's pass, then 4 tokens twice
    assert (found.num_drafted, found.num_accepted) == (6, 6)
    assert drafts(constant, PROMPTS[1], max_new_tokens=8, **asked).num_forwards == 3  # the last pass drafts 2
    assert drafts(constant, PROMPTS[1], max_new_tokens=9, mtp_drafts=1, **asked).num_forwards == 5
    assert drafts(constant, PROMPTS[1], max_new_tokens=9, mtp_drafts=0, **asked).num_forwards == 9


def test_nothing_follows_an_end_inside_a_draft(constant: Any) -> None:
    class SevenSevens:
        """Forbid 7 and ask for 9 once seven 7s stand at the end: the end comes in the middle of a pass."""

        def __call__(self, ids_BT: Tensor, scores_BV: Tensor) -> Tensor:
            ends_B = (ids_BT[:, -7:] == 7).all(-1)
            scores_BV[ends_B, 9] = 1e9
            return scores_BV

    for end in (9, [3, 9]):
        asked = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": end, "logits_processor": [SevenSevens()]}
        plain, found = constant.generate(PROMPTS[1], **asked), drafts(constant, PROMPTS[1], **asked)
        assert torch.equal(found, plain)
        assert found[0, 5:].tolist() == [7] * 7 + [9]


@pytest.mark.parametrize(
    "asked",
    [
        {"max_length": 20},
        {"max_new_tokens": 17, "repetition_penalty": 1.3},
        {"max_new_tokens": 17, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 17, "min_new_tokens": 9, "eos_token_id": list(range(0, 352, 3)), "pad_token_id": 1},
        {"max_new_tokens": 30, "eos_token_id": list(range(0, 352, 9)), "pad_token_id": 1},
        {"max_new_tokens": 30, "stop_strings": ["a", "e", "("]},
    ],
    ids=str,
)
def test_settings_of_generation_end_and_shape_a_text_as_without_drafts(qwen3: Any, asked: dict[str, Any]) -> None:
    asked = {"do_sample": False, "return_dict_in_generate": True, **asked}
    if "stop_strings" in asked:
        asked["tokenizer"] = transformers.AutoTokenizer.from_pretrained(qwen3.name_or_path)
    found = [drafts(qwen3, prompt, **asked) for prompt in PROMPTS]
    for prompt, output in zip(PROMPTS, found, strict=True):
        assert torch.equal(output.sequences, qwen3.generate(prompt, **asked).sequences)
    assert sum(output.num_accepted for output in found) > 0


def test_rows_of_a_batch_keep_their_tokens_behind_padding_on_the_left(directory: Path) -> None:
    model, length = loaded(directory), max(len(prompt[0]) for prompt in PROMPTS)
    padded = torch.cat([torch.nn.functional.pad(prompt, (length - len(prompt[0]), 0)) for prompt in PROMPTS])
    asked = {
        "attention_mask": torch.cat(
            [torch.arange(length)[None] >= length - len(prompt[0]) for prompt in PROMPTS]
        ).long(),
        "max_new_tokens": 15,
        "do_sample": False,
        "pad_token_id": 0,
    }
    ends = model.generate(padded, eos_token_id=None, **asked)[0, length + 4].item()  # so one row ends before the others
    for eos in (None, ends):
        plain, found = (
            model.generate(padded, eos_token_id=eos, **asked),
            drafts(model, padded, eos_token_id=eos, **asked),
        )
        assert torch.equal(found, plain)


def test_a_streamer_sees_the_prompt_and_then_token_by_token(qwen3: Any) -> None:
    class Heard:
        def __init__(self) -> None:
            self.parts: list[list[int]] = []

        def put(self, value: Tensor) -> None:
            self.parts.append(value.flatten().tolist())

        def end(self) -> None:
            self.parts.append([])

    plain, found = Heard(), Heard()
    qwen3.generate(PROMPTS[2], max_new_tokens=11, do_sample=False, streamer=plain)
    drafts(qwen3, PROMPTS[2], max_new_tokens=11, do_sample=False, streamer=found)
    assert found.parts == plain.parts


def test_a_model_loaded_with_its_code_drafts_without_being_asked(qwen3: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(qwen3.name_or_path, trust_remote_code=True)
    asked = {"max_new_tokens": 11, "do_sample": False, "return_dict_in_generate": True}
    found = model.generate(PROMPTS[2], **asked)
    assert found.num_drafted > 0
    assert torch.equal(found.sequences, qwen3.generate(PROMPTS[2], **asked).sequences)
    assert drafts(model, PROMPTS[2], **asked).num_forwards == found.num_forwards


def test_heads_of_another_directory_are_named_by_the_caller(qwen3: Any, tmp_path: Path) -> None:
    qwen3.save_pretrained(tmp_path / "copy")
    copy = loaded(tmp_path / "copy")
    asked = {"custom_generate": qwen3.name_or_path, "trust_remote_code": True, "max_new_tokens": 11, "do_sample": False}
    with pytest.raises(ValueError, match=r"found no mtp_heads\.json .* pass their directory: mtp_heads=DIR"):
        copy.generate(PROMPTS[2], **asked)
    found = copy.generate(PROMPTS[2], mtp_heads=qwen3.name_or_path, return_dict_in_generate=True, **asked)
    assert torch.equal(found.sequences, qwen3.generate(PROMPTS[2], max_new_tokens=11, do_sample=False))
    assert found.num_drafted > 0
    assert {path.name for path in (tmp_path / "copy").iterdir()} >= {"config.json", "model.safetensors"}
    assert not any(name.startswith("heads") for name in copy.state_dict())


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"num_beams": 2}, "beam_search"),
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states"),
        ({"prompt_lookup_num_tokens": 3}, "the mode assisted_generation"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
        ({"watermarking_config": transformers.WatermarkingConfig()}, "watermarking_config"),
        ({"prefill_chunk_size": 2}, "prefill_chunk_size"),
        ({"past_key_values": transformers.DynamicCache()}, "past_key_values"),
        ({"inputs_embeds": torch.zeros(1, 3, 64)}, "inputs_embeds"),
        ({"synced_gpus": True}, "synced_gpus"),
        ({"mtp_drafts": 4}, "mtp_drafts=4, expected 0 to 3"),
        ({"stop_strings": ["a"]}, "stop_strings without a tokenizer"),
    ],
)
def test_what_drafts_do_not_go_with_is_refused_by_name(qwen3: Any, asked: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        drafts(qwen3, PROMPTS[1], max_new_tokens=3, **asked)


def test_a_model_over_several_devices_is_refused(qwen3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen3, "hf_device_map", {"model.layers.0": 0, "model.layers.1": "cpu"}, raising=False)
    with pytest.raises(ValueError, match="the model on 2 devices, expected one"):
        drafts(qwen3, PROMPTS[1], max_new_tokens=3)


def test_heads_of_another_model_are_refused(qwen3: Any, constant: Any, tmp_path: Path) -> None:
    asked = {"max_new_tokens": 3, "trust_remote_code": True}
    with pytest.raises(ValueError, match=r"for a model of llama .* one of qwen3"):
        qwen3.generate(PROMPTS[1], custom_generate=qwen3.name_or_path, mtp_heads=constant.name_or_path, **asked)
    for name in ("mtp_heads.json", "mtp_heads.safetensors"):
        (tmp_path / name).write_bytes((Path(constant.name_or_path) / name).read_bytes())
    spec = json.loads((tmp_path / "mtp_heads.json").read_text())
    (tmp_path / "mtp_heads.json").write_text(json.dumps(spec | {"model_type": "qwen3"}))
    with pytest.raises(ValueError, match="does not hold layers of this Qwen3ForCausalLM"):
        qwen3.generate(PROMPTS[1], custom_generate=qwen3.name_or_path, mtp_heads=str(tmp_path), **asked)


ALLOWED, TEMPERATURE, NUM_NEW, NUM_CALLS = (7, 8, 9), 1.5, 4, 160


@torch.no_grad()
def probabilities(model: Any, prompt: Tensor) -> dict[tuple[int, ...], float]:
    """Enumerate the continuations of plain sampling and their probabilities, by the definition."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(NUM_NEW):
        longer = {}
        for ids, probability in found.items():
            logits_V = model(torch.cat([prompt, torch.tensor([ids], dtype=torch.long)], dim=1)).logits[0, -1]
            shares = (logits_V[list(ALLOWED)] / TEMPERATURE).softmax(-1).tolist()
            longer |= {(*ids, token): probability * share for token, share in zip(ALLOWED, shares, strict=True)}
        found = longer
    return found


def test_sampling_with_drafts_has_the_distribution_of_plain_sampling(tmp_path: Path) -> None:
    """Chi-square over the last three of four tokens, each one of three, in batches of three rows that go in step."""
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = loaded(exported(model_of("llama, linear", **small), tmp_path, noise=0.3))
    asked = {
        "max_new_tokens": NUM_NEW,
        "do_sample": True,
        "temperature": TEMPERATURE,
        "suppress_tokens": [token for token in range(352) if token not in ALLOWED],
        "num_return_sequences": 3,
        "return_dict_in_generate": True,
        "eos_token_id": None,
    }
    expected = dict.fromkeys(itertools.product(ALLOWED, repeat=NUM_NEW - 1), 0.0)
    for ids, share in probabilities(model, PROMPTS[1]).items():
        expected[ids[1:]] += share
    torch.manual_seed(0)
    outputs = [drafts(model, PROMPTS[1], **asked) for _ in range(NUM_CALLS)]
    drawn = [tuple(row) for output in outputs for row in output.sequences[:, 1 - NUM_NEW :].tolist()]
    assert set(drawn) <= set(expected)
    assert 0.2 < sum(output.num_accepted for output in outputs) / sum(output.num_drafted for output in outputs) < 0.8
    chi_square = sum(
        (drawn.count(ids) - len(drawn) * share) ** 2 / (len(drawn) * share) for ids, share in expected.items()
    )
    assert min(expected.values()) * len(drawn) > 3
    assert chi_square < 54.1  # the 0.999 quantile of 26 degrees of freedom; the seed is fixed


def test_a_kept_or_replaced_draft_is_drawn_from_the_model(qwen3: Any) -> None:
    """The rule alone, 400,000 times: frequencies are those of p within four standard deviations, q is far off."""
    drafts(qwen3, PROMPTS[1], max_new_tokens=1)  # transformers imports the file
    code = next(module for name, module in sys.modules.items() if name.endswith("custom_generate.generate"))
    p_V, q_V, num = torch.tensor([0.5, 0.2, 0.3, 0.0]), torch.tensor([0.1, 0.4, 0.0, 0.5]), 400_000
    torch.manual_seed(1)
    drafted_B = torch.multinomial(q_V, num, replacement=True)
    tokens_B, holds_B = code.speculate(p_V.expand(num, 4), q_V.expand(num, 4), drafted_B)
    found_V = torch.bincount(tokens_B, minlength=4) / num
    assert ((found_V - p_V).abs() <= 4 * (p_V * (1 - p_V) / num).sqrt()).all()
    assert torch.equal(tokens_B[holds_B], drafted_B[holds_B])
    assert abs(holds_B.float().mean().item() - 0.3) < 4 * (0.21 / num) ** 0.5  # sum of min(p, q)
    same_B, all_hold_B = code.speculate(p_V.expand(num, 4), p_V.expand(num, 4), torch.multinomial(p_V, num, True))
    assert all_hold_B.all()
    assert (same_B < 3).all()
