"""The reference of Rho-1, a LLaMA as Hugging Face ships it, opened for conversion to one float16 file in our layout.

Its weights may lie in one file or in many, `.safetensors` or `.bin` (plain tensors only). A reference is worth
something only with the policy's tokenizer: losses are compared token by token. So the two tokenizer files must be the
same bytes, and the two models must have as many tokens. Nothing is written here (`model_directory.write_model` does).
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from wmtp_ray.artifacts.hf.directory import open_directory
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.model_directory import ModelToWrite, narrowed
from wmtp_ray.artifacts.model_record import SharedTokenizer
from wmtp_ray.artifacts.streamed_tensors import TensorForm
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import TOKENIZER_MODEL, HfFolder, ModelFolder

DTYPE = torch.float16


def open_reference(
    source: Path, out: Path, shared_with: Path, tokenizer: Path | None, *, version: str | None
) -> ModelToWrite:
    """Open the model in the folder `source`, which will go to `out`, for use with the policy in `shared_with`.

    `tokenizer` is the folder's own and `version` its name unless given. ArtifactError when the folder holds no plain
    LLaMA (see `hf.directory`), or when tokenizers or vocabularies differ.
    """
    model = open_directory(source)
    tokenizer = tokenizer or HfFolder(source).tokenizer.model
    shared = _shared_tokenizer(tokenizer, shared_with, out)
    policy_size = ModelSpec.read(shared_with).vocab_size
    if model.args.vocab_size != policy_size:
        raise ArtifactError(
            f"The reference in {source} has {model.args.vocab_size} tokens, the policy in {shared_with} has "
            f"{policy_size}, expected one vocabulary: choose a reference of the policy's family"
        )

    def read(name: str) -> Tensor:
        return narrowed(name, model.read(name), DTYPE)

    return ModelToWrite(
        kind="reference",
        version=version or source.resolve().name,
        args=model.args,
        forms={name: TensorForm(DTYPE, form.shape) for name, form in model.forms.items()},
        read=read,
        tokenizer=tokenizer,
        source={path.name: path for path in HfFolder(source).origin_files()} | {TOKENIZER_MODEL: tokenizer},
        settings={"dtype": "float16"},
        tokenizer_shared_with=shared,
        hf_config=HfFolder(source).config,
    )


def _shared_tokenizer(tokenizer: Path, shared_with: Path, out: Path) -> SharedTokenizer:
    ours = ModelFolder(shared_with).tokenizer.model
    for path in (tokenizer, ours):
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; a reference is compared with its policy by their tokenizers")
    their_hash, our_hash = file_sha256(tokenizer), file_sha256(ours)
    if their_hash != our_hash:
        raise ArtifactError(
            f"The reference's tokenizer {tokenizer} (SHA-256 {their_hash[:12]}) is another than the policy's {ours} "
            f"(SHA-256 {our_hash[:12]}). Rho-1 compares losses token by token: choose a reference that was trained "
            "with the policy's tokenizer"
        )
    return SharedTokenizer(os.path.relpath(shared_with.absolute(), out.absolute()), our_hash)
