"""Where each file of a model lies. Names and paths only: it opens no file, and no other module spells these names.

`ModelFolder`      a model in Meta's layout, ours: flat or in parts
`TokenizerFolder`  a tokenizer with the files that describe it, in either kind of model
`HfFolder`         a model in Hugging Face's layout

A path is where the file lies, or where it belongs when it is written. A model's directory has one of two layouts, which
`ModelFolder` finds out by looking, and no other module does:

    flat      params.json  model.safetensors or consolidated.pth  tokenizer.model ...  meta_adapter.yaml  metadata.json
    in parts  configs/params.json  configs/meta_adapter.yaml  safetensors/model.safetensors
              tokenizer/tokenizer.model  tokenizer/tokenizer_config.json ...  metadata.json
"""

from dataclasses import dataclass, field
from pathlib import Path

from wmtp_ray.errors import ArtifactError

PARAMS = "params.json"
WEIGHTS = "model.safetensors"
META_WEIGHTS = "consolidated.pth"
META_ADAPTER = "meta_adapter.yaml"
METADATA = "metadata.json"
VALUE_HEAD, VALUE_SPEC = "value_head.safetensors", "value_head.json"
LORA_WEIGHTS, LORA_SPEC = "adapters.safetensors", "adapters.json"
TRAINING = "training.json"

TOKENIZER_MODEL, TOKENIZER_JSON = "tokenizer.model", "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE, MORE_CHAT_TEMPLATES = "chat_template.jinja", "additional_chat_templates"

HF_CONFIG, HF_ADAPTER_CONFIG = "config.json", "adapter_config.json"
HF_HEADS, HF_HEADS_SPEC = "mtp_heads.safetensors", "mtp_heads.json"
HF_CUSTOM_GENERATE, MODEL_CARD = "custom_generate", "README.md"
HF_WEIGHTS = (WEIGHTS, "pytorch_model.bin")
_HF_INDEX = ".index.json"
_HF_ORIGIN = (HF_CONFIG, "*.safetensors", f"*.safetensors{_HF_INDEX}", "*.bin", f"*.bin{_HF_INDEX}")


_CONFIGS, _SAFETENSORS, _TOKENIZER = "configs", "safetensors", "tokenizer"  # folders of a model in parts


@dataclass(frozen=True)
class TokenizerFolder:
    """The folder of a tokenizer: its own file, and what says which of its tokens are special and how to chat."""

    path: Path

    @classmethod
    def of(cls, tokenizer: Path) -> "TokenizerFolder":
        """Return the folder of a tokenizer.model or tokenizer.json."""
        return cls(tokenizer.parent)

    @property
    def model(self) -> Path:
        """The SentencePiece model."""
        return self.path / TOKENIZER_MODEL

    @property
    def json(self) -> Path:
        """The byte-level BPE."""
        return self.path / TOKENIZER_JSON

    @property
    def config(self) -> Path:
        """Special tokens by their roles, and the chat template of older models."""
        return self.path / TOKENIZER_CONFIG

    @property
    def special_tokens_map(self) -> Path:
        """Special tokens by their roles, of older models."""
        return self.path / SPECIAL_TOKENS_MAP

    @property
    def added_tokens(self) -> Path:
        """Added tokens, of older models."""
        return self.path / ADDED_TOKENS

    @property
    def generation_config(self) -> Path:
        """The ids that end an answer."""
        return self.path / GENERATION_CONFIG

    @property
    def chat_template(self) -> Path:
        return self.path / CHAT_TEMPLATE

    def chat_templates(self) -> list[Path]:
        """Return the chat templates that are there: the default, then the others by name."""
        found = [self.chat_template, *sorted((self.path / MORE_CHAT_TEMPLATES).glob("*.jinja"))]
        return [path for path in found if path.exists()]

    def place(self, name: str) -> Path:
        """Return where a file of a tokenizer goes, by the name that it has beside the others."""
        return self.path / name


@dataclass(frozen=True)
class ModelFolder:
    """A model directory in Meta's layout; a policy's also holds its value head and how it was trained.

    `in_parts`: its files lie in folders of their own (see the module). Unless it is given, what is on the disk decides;
    a directory that holds no model yet is flat. ArtifactError, when a path is asked for that depends on it, for a
    directory that holds a model in both layouts.
    """

    path: Path
    in_parts: bool | None = field(default=None, compare=False)

    @property
    def is_in_parts(self) -> bool:
        """Which layout the directory has."""
        if self.in_parts is not None:
            return self.in_parts
        flat, parts = (
            [folder / name for folder, name in places if (folder / name).is_file()]
            for places in (
                [(self.path, PARAMS), (self.path, WEIGHTS), (self.path, META_WEIGHTS)],
                [(self.path / _CONFIGS, PARAMS), (self.path / _SAFETENSORS, WEIGHTS)],
            )
        )
        if flat and parts:
            raise ArtifactError(
                f"{self.path} holds a model in two layouts: found {self.name_of(flat[0])} and "
                f"{self.name_of(parts[0])}, expected all files side by side, or all in {_CONFIGS}/, {_SAFETENSORS}/ "
                f"and {_TOKENIZER}/; keep the one that is meant and move the other away"
            )
        return bool(parts)

    def _part(self, folder: str) -> Path:
        return self.path / folder if self.is_in_parts else self.path

    @property
    def params(self) -> Path:
        """What the model is: `wmtp_ray.model.spec.ModelSpec` reads it."""
        return self._part(_CONFIGS) / PARAMS

    @property
    def weights(self) -> Path:
        """The weights as this project writes them."""
        return self._part(_SAFETENSORS) / WEIGHTS

    @property
    def meta_weights(self) -> Path:
        """The weights as Meta ships them, whole; only of a flat directory."""
        return self.path / META_WEIGHTS

    @property
    def weights_choices(self) -> tuple[Path, ...]:
        """The files that weights are read from, the preferred one first."""
        return (self.weights,) if self.is_in_parts else (self.weights, self.meta_weights)

    def find_weights(self) -> Path | None:
        """Return the file that weights are read from, None where there is none."""
        return next((path for path in self.weights_choices if path.is_file()), None)

    def meta_weight_parts(self) -> list[Path]:
        """Return the parts of a checkpoint that Meta cut for several devices, in order; none of a whole one."""
        return sorted(self.path.glob("consolidated.*.pth"))

    @property
    def tokenizer(self) -> TokenizerFolder:
        return TokenizerFolder(self._part(_TOKENIZER))

    @property
    def meta_adapter(self) -> Path:
        """How params.json is understood, spelled out; `wmtp_ray.model.meta_adapter` compares the two."""
        return self._part(_CONFIGS) / META_ADAPTER

    @property
    def hf_config(self) -> Path:
        """The config.json of the model that this one was converted from, kept."""
        return self._part(_CONFIGS) / HF_CONFIG

    @property
    def metadata(self) -> Path:
        """Where the weights come from, and the hash of every file."""
        return self.path / METADATA

    @property
    def value_head(self) -> Path:
        """The tensors of a policy's value head."""
        return self.path / VALUE_HEAD

    @property
    def value_spec(self) -> Path:
        """The form of the value head: `wmtp_ray.model.value_spec.ValueSpec`."""
        return self.path / VALUE_SPEC

    @property
    def lora_weights(self) -> Path:
        """The adapters of a policy whose base is another directory."""
        return self.path / LORA_WEIGHTS

    @property
    def lora_spec(self) -> Path:
        """What the adapters fit."""
        return self.path / LORA_SPEC

    @property
    def training(self) -> Path:
        """How the policy was trained."""
        return self.path / TRAINING

    def name_of(self, path: Path) -> str:
        """Return the name of a file by its path from this directory."""
        return path.relative_to(self.path).as_posix()


@dataclass(frozen=True)
class HfFolder:
    """A model directory in Hugging Face's layout."""

    path: Path

    @property
    def config(self) -> Path:
        """What the model is."""
        return self.path / HF_CONFIG

    @property
    def adapter_config(self) -> Path:
        """What peft writes beside adapters."""
        return self.path / HF_ADAPTER_CONFIG

    @property
    def weights(self) -> Path:
        """The weights as this project exports them."""
        return self.path / WEIGHTS

    @property
    def weights_index(self) -> Path:
        """The file of each tensor, beside `weights`."""
        return self.path / f"{WEIGHTS}{_HF_INDEX}"

    @property
    def heads(self) -> Path:
        """The prediction heads of the horizons above 1, as this project exports them."""
        return self.path / HF_HEADS

    @property
    def heads_spec(self) -> Path:
        """How many heads there are, and of which model."""
        return self.path / HF_HEADS_SPEC

    @property
    def custom_generate(self) -> Path:
        """The folder of the decoding that transformers runs on request."""
        return self.path / HF_CUSTOM_GENERATE

    @property
    def model_card(self) -> Path:
        """What a repository shows about the model."""
        return self.path / MODEL_CARD

    def weights_choices(self) -> list[tuple[Path, Path]]:
        """Return the files that weights are read from, the preferred ones first: the whole, and the index of parts."""
        return [(self.path / name, self.path / f"{name}{_HF_INDEX}") for name in HF_WEIGHTS]

    def origin_files(self) -> list[Path]:
        """Return the files that a conversion depends on: description, weights and their indexes."""
        return sorted({path for pattern in _HF_ORIGIN for path in self.path.glob(pattern)})

    @property
    def tokenizer(self) -> TokenizerFolder:
        return TokenizerFolder(self.path)
