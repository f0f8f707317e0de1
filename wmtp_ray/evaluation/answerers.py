"""Who answers in an evaluation: a policy that our decoders load, or the model behind a server.

What an evaluation knows of a policy is the hash of its weights. Of a server's model it is a name and an address: the
identity says these, and of a checkpoint that is said to be served its hashes, which nothing compares with what answers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import weights_file
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.decoding import DecodingRequest
from wmtp_ray.evaluation.identity import (
    DecodingIdentity,
    Execution,
    ModelHashes,
    ServedIdentity,
    decoding_identity,
    served_identity,
)
from wmtp_ray.evaluation.ledger import DecodedAnswers, Ledger
from wmtp_ray.evaluation.prompts import PromptFormat
from wmtp_ray.evaluation.served import ServedModel
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.tracking.training_record import TrainingRecord, training_of


class Answerer(Protocol):
    """`path` and `tokenizer_path` are for people; `training` is None where nothing is known of it."""

    path: str
    tokenizer_path: str | None
    training: TrainingRecord | None

    def identity(self, config: RunConfig, prompt_format: PromptFormat) -> DecodingIdentity | ServedIdentity:
        """Return what its answers depend on."""
        ...

    def requests(self, answers: DecodedAnswers, ledger: Ledger, seed: int) -> list[DecodingRequest]:
        """Return the requests without an answer."""
        ...


@dataclass(frozen=True)
class PolicyFiles:
    """What a decoder loads: a model directory in Meta's layout and its tokenizer."""

    model: Path
    tokenizer: Path


class LoadedPolicy:
    """A policy whose files our decoders load."""

    def __init__(self, files: PolicyFiles) -> None:
        self._tokenizer = CodeTokenizer(files.tokenizer)
        self._hashes = _hashes(files, self._tokenizer)
        self.path = str(files.model)
        self.tokenizer_path: str | None = str(files.tokenizer)
        self.training = training_of(files.model, self._hashes.weights_sha256)

    def identity(self, config: RunConfig, prompt_format: PromptFormat) -> DecodingIdentity:
        train = config.train
        execution = Execution(config.seed, train.device, train.dtype, config.cluster.threads_per_worker)
        return decoding_identity(self._hashes, prompt_format, config.evaluation, execution)

    def requests(self, answers: DecodedAnswers, ledger: Ledger, seed: int) -> list[DecodingRequest]:
        return answers.requests(ledger, self._tokenizer, seed)


class ServedPolicy:
    """The model behind a server, which the user says is `claimed`; None: the user does not say."""

    def __init__(self, served: ServedModel, claimed: PolicyFiles | None) -> None:
        self._served = served
        self._claimed = None if claimed is None else _hashes(claimed, CodeTokenizer(claimed.tokenizer))
        self.path = served.words
        self.tokenizer_path: str | None = None
        self.training: TrainingRecord | None = None

    def identity(self, config: RunConfig, prompt_format: PromptFormat) -> ServedIdentity:
        return served_identity(self._served, self._claimed, prompt_format, config)

    def requests(self, answers: DecodedAnswers, ledger: Ledger, seed: int) -> list[DecodingRequest]:
        return answers.text_requests(ledger, seed)


def _hashes(files: PolicyFiles, tokenizer: CodeTokenizer) -> ModelHashes:
    return ModelHashes(
        weights_sha256=file_sha256(weights_file(files.model)),
        params_sha256=file_sha256(ModelFolder(files.model).params),
        tokenizer_sha256=tokenizer.sha256,
    )
