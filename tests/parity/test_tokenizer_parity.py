"""Tokenizers on their way in and out, against transformers' own AutoTokenizer: ids, ends, chats and greedy answers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer

from tests.byte_level_tokenizer import BEGIN, END, write_byte_level
from vendor.meta_llama import Transformer, generate
from wmtp_ray.artifacts.hf.export_model import export_model
from wmtp_ray.artifacts.hf.import_model import import_model
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

transformers = pytest.importorskip("transformers")

TEXTS = [
    "### Instruction:\nAdd two numbers and print the sum.\n",
    "def add(a, b):\n    return a + b\n",
    "user assistant hello there world",
]
NUM_PIECES = 330
CHAT = ["<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPTS = ["def add(a, b):", "### Response:\n", "hello", "  x = 1", "for i in range(12):\n\t"]


def write_llama(directory: Path, num_rows: int, tokenizer: Path) -> None:
    """A LLaMA of Hugging Face's layout with random weights and without tokenizer files."""
    args = ModelSpec(dim=16, n_layers=2, n_heads=2, vocab_size=num_rows, multiple_of=8, max_seq_len=128)
    model = Transformer(args)
    model.init_weights(torch.Generator().manual_seed(3))
    tensors = {name: tensor * 8 for name, tensor in model.state_dict().items()}
    export_model(args, tensors, tokenizer, directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (directory / name).unlink(missing_ok=True)


def write_sentencepiece(path: Path, **options: object) -> Path:
    model = io.BytesIO()
    settings: dict[str, object] = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    settings |= {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "minloglevel": 2}
    settings |= {"num_threads": 1, "vocab_size": NUM_PIECES}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_writer=model, **(settings | options)
    )
    path.write_bytes(model.getvalue())
    return path


def token(text: str, **changes: object) -> dict[str, object]:
    return {"content": text, "special": True, "lstrip": False, "rstrip": False, "normalized": False} | changes


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    """A fine-tuned LLaMA: its chat tokens, end token and template stand beside its tokenizer.model."""
    directory = tmp_path / "chat"
    write_llama(directory, NUM_PIECES + 4, write_sentencepiece(tmp_path / "tokenizer.model"))
    write_settings(directory)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [NUM_PIECES + 1, 2]}))
    return directory


def write_settings(directory: Path, **changes: object) -> None:
    added = {str(NUM_PIECES + n): token(text, single_word=False) for n, text in enumerate(CHAT)}
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": CHAT[1],
        "unk_token": "<unk>",
        "added_tokens_decoder": added,
        "chat_template": CHATML,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | changes))


def their_chat(tokenizer: Any, instruction: str) -> list[int]:
    messages = [{"role": "user", "content": instruction}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def exported(directory: Path, out: Path) -> Path:
    tokenizer = next(path for path in (directory / "tokenizer.model", directory / "tokenizer.json") if path.exists())
    model = load_transformer(directory)
    export_model(model.args, model.state_dict(), tokenizer, out)
    return out


@pytest.mark.parametrize("legacy", [None, False, True])
def test_a_fine_tuned_models_tokens_end_and_chat_survive_import_and_export(
    chat_model: Path, tmp_path: Path, legacy: bool | None
) -> None:
    if legacy is not None:
        write_settings(chat_model, legacy=legacy)
    theirs = transformers.AutoTokenizer.from_pretrained(chat_model)
    imported = import_model(chat_model, tmp_path / "ours", num_horizons=2)
    assert "the added tokens <|im_start|>, <|im_end|>" in imported.render()
    assert "<|im_end|> ends a text" in imported.render()
    assert imported.tokenizer is not None
    ours = CodeTokenizer(imported.tokenizer)
    back = transformers.AutoTokenizer.from_pretrained(exported(tmp_path / "ours", tmp_path / "back"))
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (1, NUM_PIECES + 1, NUM_PIECES + 2)
    assert ours.end_ids == {NUM_PIECES + 1, 2}
    chat = ours.encode_chat("hello there")
    assert chat is not None
    assert chat.tolist() == their_chat(theirs, "hello there") == their_chat(back, "hello there")
    assert NUM_PIECES + 1 not in ours.encode("hello<|im_end|>"), "in a program it is text"
    for text in PROMPTS:
        if not text.startswith(" "):  # a blank that transformers 5 does not put before a blank
            assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
        assert back(text)["input_ids"] == [ours.bos_id, *ours.encode(text)]
    assert (back.bos_token_id, back.eos_token_id, back.chat_template) == (1, NUM_PIECES + 1, CHATML)
    config = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert config["eos_token_id"] == [NUM_PIECES + 1, 2]


def test_an_export_is_imported_and_exported_as_the_same_files(chat_model: Path, tmp_path: Path) -> None:
    import_model(chat_model, tmp_path / "one", num_horizons=1)
    exported(tmp_path / "one", tmp_path / "two")
    imported = import_model(tmp_path / "two", tmp_path / "three", num_horizons=1)
    exported(tmp_path / "three", tmp_path / "four")
    assert (tmp_path / "three" / "tokenizer.model").read_bytes() == (tmp_path / "one" / "tokenizer.model").read_bytes()
    assert imported.notes == ()
    for path in (tmp_path / "two").iterdir():
        assert (tmp_path / "four" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("form", ["jinja", "list", "in a map of old"])
def test_tokens_and_templates_are_read_wherever_they_stand(chat_model: Path, tmp_path: Path, form: str) -> None:
    if form == "jinja":
        write_settings(chat_model, chat_template=None)
        (chat_model / "chat_template.jinja").write_text(CHATML)
    elif form == "list":
        several = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "tools"}]
        write_settings(chat_model, chat_template=several)
    else:
        (chat_model / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
        (chat_model / "added_tokens.json").write_text(json.dumps({text: NUM_PIECES + n for n, text in enumerate(CHAT)}))
        roles = {"eos_token": token(CHAT[1]), "additional_special_tokens": [CHAT[0]]}
        (chat_model / "special_tokens_map.json").write_text(json.dumps(roles))
    imported = import_model(chat_model, tmp_path / "ours", num_horizons=1)
    assert imported.tokenizer is not None
    ours = CodeTokenizer(imported.tokenizer)
    start, end = NUM_PIECES, NUM_PIECES + 1
    assert ours.eos_id == end
    chat = ours.encode_chat("hello")
    assert chat is not None
    assert [index for index in chat.tolist() if index >= NUM_PIECES] == [start, end, start]
    back = transformers.AutoTokenizer.from_pretrained(exported(tmp_path / "ours", tmp_path / "back"))
    assert their_chat(back, "hello") == chat.tolist()


def test_white_space_that_belongs_to_a_token_vanishes_as_in_transformers(chat_model: Path, tmp_path: Path) -> None:
    added = {str(NUM_PIECES + n): token(text, single_word=False, rstrip=True) for n, text in enumerate(CHAT)}
    write_settings(chat_model, added_tokens_decoder=added)
    theirs = transformers.AutoTokenizer.from_pretrained(chat_model)
    import_model(chat_model, tmp_path / "ours", num_horizons=1)
    chat = CodeTokenizer(tmp_path / "ours" / "tokenizer.model").encode_chat("hello")
    back = transformers.AutoTokenizer.from_pretrained(exported(tmp_path / "ours", tmp_path / "back"))
    assert chat is not None
    assert chat.tolist() == their_chat(theirs, "hello") == their_chat(back, "hello")


def test_an_added_token_that_is_not_special_is_found_in_texts(chat_model: Path, tmp_path: Path) -> None:
    added = {str(NUM_PIECES): token("<tool>", special=False), str(NUM_PIECES + 3): token(CHAT[1])}
    write_settings(chat_model, added_tokens_decoder=added)
    import_model(chat_model, tmp_path / "ours", num_horizons=1)
    ours = CodeTokenizer(tmp_path / "ours" / "tokenizer.model")
    ids = ours.encode("def <tool>x")
    assert NUM_PIECES in ids
    assert ours.decode(ids) == "def <tool>x"
    assert (ours.eos_id, ours.vocab_size) == (NUM_PIECES + 3, NUM_PIECES + 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token": "<|nowhere|>"}, r"'<\|nowhere\|>' as the eos_token .* which no file gives an id"),
        (
            {"added_tokens_decoder": {"300": token("<x>")}, "eos_token": "</s>"},
            "'<x>' as the added token 300, which is",
        ),
        ({"added_tokens_decoder": {"400": token("<x>")}, "eos_token": "</s>"}, "found 401 ids for a model of 334"),
    ],
)
def test_tokens_that_deny_the_model_are_refused_and_the_source_is_named(
    chat_model: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_settings(chat_model, **changes)
    with pytest.raises(ArtifactError, match=message) as caught:
        import_model(chat_model, tmp_path / "ours", num_horizons=1)
    assert str(chat_model) in str(caught.value)


def test_a_tokenizer_model_without_its_added_tokens_is_not_used_in_silence(chat_model: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'</s>' as its eos_token, the files beside it say '<\|im_end\|>'.*import"):
        CodeTokenizer(chat_model / "tokenizer.model")


def test_a_lone_tokenizer_json_of_sentencepieces_kind_is_refused_by_its_own_name(
    chat_model: Path, tmp_path: Path
) -> None:
    transformers.AutoTokenizer.from_pretrained(chat_model).save_pretrained(chat_model)
    (chat_model / "tokenizer.model").unlink()
    with pytest.raises(ArtifactError, match=rf"{chat_model / 'tokenizer.json'}.*give tokenizer\.model") as caught:
        import_model(chat_model, tmp_path / "ours", num_horizons=1)
    assert "/." not in str(caught.value), "a temporary folder"


def test_a_lone_tiktoken_file_is_refused_with_what_to_give(chat_model: Path, tmp_path: Path) -> None:
    (chat_model / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(ArtifactError, match=r"a tiktoken vocabulary.*give the tokenizer\.json"):
        import_model(chat_model, tmp_path / "ours", num_horizons=1)


def greedy(directory: Path, prompt: str) -> tuple[list[int], str]:
    """What transformers answers, with its own tokenizer's ids of the prompt: ids and text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)[0]
    whole, head = (tokenizer.decode(part, skip_special_tokens=True) for part in (answer, ids[0]))
    return [int(index) for index in answer[ids.shape[1] :]], whole[len(head) :]


@pytest.mark.parametrize("kind", ["byte-level", "byte-level without begin", "sentencepiece", "sentencepiece, no blank"])
def test_an_export_encodes_and_answers_as_training_did(tmp_path: Path, kind: str) -> None:
    if kind.startswith("byte-level"):
        path = write_byte_level(
            tmp_path / "in",
            bos_token=None if kind.endswith("begin") else BEGIN,
            add_bos_token=False,
            tokenizer_class="GPT2Tokenizer",
            chat_template=CHATML,
        )
    else:
        (tmp_path / "in").mkdir()
        path = write_sentencepiece(tmp_path / "in" / "tokenizer.model", add_dummy_prefix=not kind.endswith("no blank"))
    ours = CodeTokenizer(path)
    write_llama(tmp_path / "llama", ours.vocab_size, path)
    imported = import_model(tmp_path / "llama", tmp_path / "model", num_horizons=1)
    model = load_transformer(tmp_path / "model")
    export_model(imported.args, model.state_dict(), path, tmp_path / "back")
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for prompt in PROMPTS:
        ids = [ours.bos_id, *ours.encode(prompt)]
        assert back(prompt)["input_ids"] == ids
        assert Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json")).encode(prompt).ids == ids
        answer = generate(model, [ids], eos_id=ours.eos_id, max_new_tokens=12, temperature=0.0)[0]
        their_ids, their_text = greedy(tmp_path / "back", prompt)
        assert [index for index in their_ids if index != ours.eos_id] == answer
        text = ours.decode_continuation(ids, answer)
        assert their_text == text or "\ufffd" in text, "bytes that are no text are told in different ways"
    assert (back.bos_token_id, back.eos_token_id) == (ours.bos_id, ours.eos_id)
    if kind.startswith("byte-level"):
        assert back.chat_template == CHATML
        assert back.eos_token == END
