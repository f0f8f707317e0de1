"""The identity of an evaluation: everything that its answers and verdicts depend on, and the hash of it.

Only the evaluation that began a directory continues it: `claim_directory` refuses another one, `free_directory` names
another place for it. Batch size, the number of decoders and judges and K are no part of it: results do not depend on
them.
"""

import hashlib
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from wmtp_ray.config.evaluation import EvaluationConfig
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.prompt_label import Label
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.problems import ProblemSet
from wmtp_ray.evaluation.prompts import PromptFormat
from wmtp_ray.evaluation.served import ServedModel
from wmtp_ray.saved_records import read_record, write_record

FILE_NAME = "evaluation.json"
KEY_CHARS = 12
_PACKAGES = ("wmtp_ray", "torch", "numpy")


@dataclass(frozen=True)
class DatasetIdentity:
    """The problems: the file's hash, and how many of its first problems."""

    sha256: str
    kind: str
    num_problems: int


@dataclass(frozen=True)
class ModelHashes:
    """SHA-256 of the files of a policy."""

    weights_sha256: str
    params_sha256: str
    tokenizer_sha256: str


@dataclass(frozen=True)
class Execution:
    """The base seed, and the arithmetic that was asked for: train.device, train.dtype, cluster.threads_per_worker."""

    seed: int
    device: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class DecodingIdentity:
    """Where the answers come from: a policy, a prompt, the label that it names, and all settings of decoding."""

    model: ModelHashes
    execution: Execution
    format: str
    stop: tuple[str, ...]
    sanitiser: str
    num_samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    draft_horizons: int
    label: Label | None = None


@dataclass(frozen=True)
class ServedIdentity:
    """Answers of a server. Its weights are not known: `server` is what it says of itself.

    `said_to_be` holds the hashes of the checkpoint that the user named as the one that is served; nothing compares them
    with what answers. `seed_is_sent`: the server was given a seed with each request, which it may ignore.
    """

    server: ServedModel
    said_to_be: ModelHashes | None
    seed: int
    seed_is_sent: bool
    format: str
    stop: tuple[str, ...]
    sanitiser: str
    num_samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    label: Label | None = None


@dataclass(frozen=True)
class GivenSamples:
    """Answers from a file: the file's hash."""

    samples_sha256: str


@dataclass(frozen=True)
class JudgeIdentity:
    """How programs are judged; `isolation` is the level that was found, not "auto"."""

    isolation: str
    timeout_s: float
    memory_limit_mb: float


@dataclass(frozen=True)
class EvaluationIdentity:
    """All of it; `key` is its hash."""

    dataset: DatasetIdentity
    answers: DecodingIdentity | ServedIdentity | GivenSamples
    judge: JudgeIdentity
    versions: dict[str, str]

    @property
    def content(self) -> dict[str, Any]:
        """All of it, as it is saved; a prompt without a label is what it was before there were labels."""
        content = asdict(self)
        if content["answers"].get("label", "") is None:
            del content["answers"]["label"]
        return content

    @property
    def key(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(orjson.dumps(self.content, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True)
class ClaimedEvaluation:
    """The content of evaluation.json: the key counts, the identity is for people."""

    key: str
    identity: dict[str, Any]


def identify(
    problems: ProblemSet,
    answers: DecodingIdentity | ServedIdentity | GivenSamples,
    settings: EvaluationConfig,
    isolation_level: str,
) -> EvaluationIdentity:
    """Return the identity of evaluating `answers` on these problems, with this code."""
    dataset = DatasetIdentity(problems.sha256, problems.kind, len(problems.first(settings.limit)))
    judge = JudgeIdentity(isolation_level, settings.timeout_s, settings.memory_limit_mb)
    versions = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    return EvaluationIdentity(dataset, answers, judge, versions)


def decoding_identity(
    model: ModelHashes, prompt_format: PromptFormat, settings: EvaluationConfig, execution: Execution
) -> DecodingIdentity:
    """Join the hashes of a model with its prompt format and decoding settings."""
    return DecodingIdentity(
        model=model,
        format=prompt_format.name,
        stop=prompt_format.stop,
        sanitiser=prompt_format.sanitiser,
        num_samples=settings.num_samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        draft_horizons=settings.draft_horizons,
        execution=execution,
        label=prompt_format.label,
    )


def served_identity(
    server: ServedModel, said_to_be: ModelHashes | None, prompt_format: PromptFormat, config: RunConfig
) -> ServedIdentity:
    """Join what is known of a server's model with its prompt format and the settings that it is sent."""
    settings = config.evaluation
    return ServedIdentity(
        server=server,
        said_to_be=said_to_be,
        seed=config.seed,
        seed_is_sent=config.engine.send_seed,
        format=prompt_format.name,
        stop=prompt_format.stop,
        sanitiser=prompt_format.sanitiser,
        num_samples=settings.num_samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        label=prompt_format.label,
    )


def claim_directory(directory: Path, identity: EvaluationIdentity) -> None:
    """Record in `directory` what is evaluated there; raises ConfigError where it holds another evaluation."""
    found = key_in(directory)
    if found is not None and found != identity.key:
        raise ConfigError(
            f"{directory} holds the evaluation {found[:KEY_CHARS]}, asked for is {identity.key[:KEY_CHARS]}: another "
            f"policy, data set, setting or version ({FILE_NAME} says which). Give another --out, or remove the folder"
        )
    if found is None:
        write_record(directory / FILE_NAME, ClaimedEvaluation(identity.key, identity.content))


def free_directory(directory: Path, identity: EvaluationIdentity) -> Path:
    """Return `directory`, or `directory-<key>` where it holds another evaluation."""
    if key_in(directory) in (None, identity.key):
        return directory
    return directory.with_name(f"{directory.name}-{identity.key[:KEY_CHARS]}")


def key_in(directory: Path) -> str | None:
    """Return the key of the evaluation that a directory holds, None for none."""
    path = directory / FILE_NAME
    if not path.is_file():
        return None
    return read_record(path, ClaimedEvaluation, "remove the folder and evaluate again").key
