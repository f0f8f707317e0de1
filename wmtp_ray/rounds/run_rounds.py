"""The loop of a run in rounds: collect rows of the policy, mix them with the file's, train on them, and again.

Who collects and who trains are two functions, so that the loop starts no process. Each round's run is an ordinary run
below the run's own folder. A round that is done stands in rounds.json and is not looked at again; of one that was cut
short the collection, the file and the run each go on where they were, so that a kill at any point changes no bit.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index import file_fingerprint, index_path_of, load_or_build_index, write_index
from wmtp_ray.errors import ArtifactError, PlanError
from wmtp_ray.evaluation.collecting.answer_classes import CORRECT
from wmtp_ray.evaluation.collecting.collection_manifest import CollectionManifest
from wmtp_ray.rounds.mixed_rows import Mix, mix_rows
from wmtp_ray.rounds.rounds_record import CollectedRows, MixedRows, Round, RoundsRecord, read_rounds, write_rounds
from wmtp_ray.run_folder import CRITIC_STAGE, RoundsFolder
from wmtp_ray.tracking.result import RunResult, read_result
from wmtp_ray.tracking.training_record import record_of_run

_LOG = logging.getLogger(__name__)
_SEED_BYTES = 4


@dataclass(frozen=True)
class Ports:
    """What a round needs of the outside.

    `collect` lets a policy, given as a model directory, answer with a seed, and writes the rows to a path; `train` runs
    the stages of a configuration to their end. Both go on where an earlier call was cut short.
    """

    collect: Callable[[RunConfig, Path, Path, int], CollectionManifest]
    train: Callable[[RunConfig], RunResult]


def run_rounds(config: RunConfig, ports: Ports) -> RoundsRecord:
    """Run the rounds that are not done; return all of them. Raises WmtpError for what the user can fix."""
    assert config.rounds.count is not None, "an ordinary run has no rounds"
    folder = RoundsFolder(config.run_dir)
    record, policy = check_inputs(config), config.model.path
    write_rounds(folder, record)
    for number in range(config.rounds.count):
        if number == len(record.rounds):
            rows = _collect(config, number, policy, ports)
            mixed = _mix(config, number, record)
            run = round_config(config, number, policy)
            result = ports.train(run)
            record = replace(record, rounds=(*record.rounds, _done(run, rows, mixed, result)))
            write_rounds(folder, record)
        policy = _policy_of(folder, number, record.rounds[number])
    return record


def round_config(config: RunConfig, number: int, policy: Path) -> RunConfig:
    """Return the ordinary run of a round, which trains `policy` further on the round's rows."""
    folder = RoundsFolder(config.run_dir)
    data = config.data
    if config.rounds.collects:
        data = data.model_copy(update={"train_file": folder.train_file(number), "index_file": None})
    return config.model_copy(
        update={
            "run_name": f"{config.run_name}/{folder.name_of(number)}",
            "model": config.model.model_copy(update={"path": policy}),
            "data": data,
            "rounds": config.rounds.model_copy(update={"count": None}),
            "tags": {**config.tags, "rounds": config.run_name, "round": str(number)},
        }
    )


def seed_of_round(seed: int, number: int) -> int:
    """Return the seed that a round's answers are drawn with: 0 to 2^32 - 1."""
    digest = hashlib.sha256(f"{seed}\x1fround\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES], "little")


def check_inputs(config: RunConfig) -> RoundsRecord:
    """Return the record, or one to begin with; PlanError where a file is not what the first round began with."""
    folder, paths = RoundsFolder(config.run_dir), _inputs(config)
    inputs = {key: file_fingerprint(path) for key, path in paths.items()}
    if not folder.record.is_file():
        return RoundsRecord(inputs)
    record = read_rounds(folder)
    if changed := [key for key in paths if record.inputs.get(key) != inputs[key]]:
        raise PlanError(
            f"--resume of {config.run_name}: the content of {changed[0]}={paths[changed[0]]} has changed since its "
            "first round. Restore it, or start a new run_name"
        )
    return record


def _inputs(config: RunConfig) -> dict[str, Path]:
    """The files that all rounds read, by the key that names them."""
    file = {"data.train_file": config.data.train_file} if config.rounds.reads_file else {}
    return file | ({"rounds.problems": config.rounds.problems} if config.rounds.collects else {})


def _collect(config: RunConfig, number: int, policy: Path, ports: Ports) -> CollectedRows | None:
    if not config.rounds.collects:
        return None
    out = RoundsFolder(config.run_dir).rows(number)
    _LOG.info("Round %d: collect", number)
    return _collected(ports.collect(config, policy, out, seed_of_round(config.seed, number)))


def _collected(manifest: CollectionManifest) -> CollectedRows:
    """The part of a collection's manifest that rounds are compared by."""
    counts = manifest.counts
    return CollectedRows(
        problems=counts.problems,
        problems_with_correct=counts.problems_with_correct,
        judged=sum(counts.verdicts.values()),
        correct=sum(counts.verdicts.get(status, 0) for status in CORRECT),
        different_programs=counts.correct_rows + counts.incorrect_rows + counts.left_out.get("over the cap", 0),
        correct_rows=counts.correct_rows,
        incorrect_rows=counts.incorrect_rows,
        rows_sha256=manifest.rows_sha256,
    )


def _mix(config: RunConfig, number: int, record: RoundsRecord) -> MixedRows | None:
    """Write what a round trains on; only correct rows where nothing of a run reads others.

    Raises ArtifactError where the rows of an earlier round are not those that it collected.
    """
    rounds, folder = config.rounds, RoundsFolder(config.run_dir)
    if not rounds.collects:
        return None
    mix = Mix(rounds.share_collected, reads_only_correct_rows(config), config.seed, number)
    kept = [folder.rows(each) for each in rounds.kept(number)]
    for done, path in zip(record.rounds[rounds.kept(number).start :], kept, strict=False):
        _require_rows_of(done, path)
    return mix_rows(folder.train_file(number), _file_index(config) if rounds.reads_file else None, kept, mix)


def _require_rows_of(done: Round, path: Path) -> None:
    assert done.collected is not None, "every round of the run collects"
    if not path.is_file() or file_sha256(path) != done.collected.rows_sha256:
        raise ArtifactError(
            f"{path}: found {'other rows' if path.is_file() else 'no file'}, expected those that {done.run} collected "
            f"(SHA-256 {done.collected.rows_sha256[:12]}); restore the file, or start a new run_name"
        )


def reads_only_correct_rows(config: RunConfig) -> bool:
    """Whether neither policy nor critic reads incorrect rows, so that the share is one of correct rows."""
    only_correct = config.data.policy_rows == "correct_only"
    return only_correct and CRITIC_STAGE not in config.stages and not config.compares_rows


def _file_index(config: RunConfig) -> RowIndex:
    """The index of data.train_file, kept for the next round."""
    data = config.data
    out = index_path_of(data.train_file, data.index_file)
    is_new = not out.exists()
    built = load_or_build_index(data.train_file, out, on_error=data.on_error)
    if is_new:
        write_index(built, out)
    return built.index


def _done(run: RunConfig, rows: CollectedRows | None, mixed: MixedRows | None, result: RunResult) -> Round:
    assert result.policy_sha256 is not None, "stage 2 has trained a policy"
    return Round(
        run=run.run_dir.name,
        collected=rows,
        mixed=mixed,
        steps=result.steps,
        critic_steps=record_of_run(run.run_dir).critic_steps,
        policy_sha256=result.policy_sha256,
    )


def _policy_of(folder: RoundsFolder, number: int, done: Round) -> Path:
    """Return the policy that a round has made; ArtifactError where its folder holds another."""
    run = folder.run(number)
    found = read_result(run.path).policy_sha256
    if found != done.policy_sha256 or not run.final.is_dir():
        raise ArtifactError(
            f"{run.path}: found the policy {(found or 'none')[:12]}, expected {done.policy_sha256[:12]}, which "
            f"{folder.record.name} says of round {number}; restore the folder, or start a new run_name"
        )
    return run.final
