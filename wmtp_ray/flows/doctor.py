"""`wmtp doctor`: would a run work here? Looks at the machine and at what a configuration needs; starts nothing.

Doctor and launch call the same checks (`start_checks.py`, `run_directory.py`, `prepare.py`), so that the two cannot
disagree. The machine's part is `findings.py`; here are the configuration, its files, index and estimate.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wmtp_ray.config.load import check_files, earlier_names, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.index import build_index
from wmtp_ray.data.index_file import index_path_of, load_index
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.errors import ArtifactError, WmtpError
from wmtp_ray.flows.run.prepare import LARGE_BYTES, check_model_fits, prepare
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.preflight.machine_findings import (
    Finding,
    find_cards,
    look_at_judge,
    look_at_machine,
    look_at_versions,
)
from wmtp_ray.preflight.ray_findings import look_at_other_rays
from wmtp_ray.preflight.ray_place import check_ray_can_start, joins_a_cluster
from wmtp_ray.preflight.run_directory import check_plans, check_run_directory
from wmtp_ray.preflight.start_checks import start_checks
from wmtp_ray.preflight.writable import why_not_writable
from wmtp_ray.text_tables import table
from wmtp_ray.training.estimate.hardware import CARDS, GIB, Card
from wmtp_ray.training.estimate.render_estimate import render_estimate
from wmtp_ray.training.estimate.run_estimate import RunEstimate, estimate_run, require_fit

_MARKS = {"ok": "  ok  ", "warning": " warn ", "problem": "  NO  "}
_DEFAULT_RECIPE = "recipe=verifiable"
_FILES, _MODEL = "files", "model, tokenizer"  # subjects of findings about the model


@dataclass(frozen=True)
class DoctorReport:
    """Everything looked at, and the estimate as text where the model could be read."""

    findings: tuple[Finding, ...]
    estimate: str

    @property
    def ok(self) -> bool:
        """Whether nothing was found that stops a run."""
        return all(finding.level != "problem" for finding in self.findings)

    def render(self) -> str:
        """Write one line for each finding, what to do below it, and the estimate."""
        rows = []
        for finding in self.findings:
            rows.append([f"[{_MARKS[finding.level]}] {finding.subject}", finding.found])
            if finding.remedy:
                rows.append(["", f"-> {finding.remedy}"])
        problems = sum(finding.level == "problem" for finding in self.findings)
        verdict = "A run can start." if self.ok else f"{problems} problem{'s' * (problems > 1)} would stop a run."
        parts = [table(rows, left=(0, 1), indent=0), self.estimate, verdict]
        return "\n\n".join(part for part in parts if part)


def doctor(words: Sequence[str]) -> DoctorReport:
    """Look at the machine and at the configuration that `words` give (as for launch; recipe=verifiable unless said)."""
    cards = find_cards()
    findings = [*look_at_machine(cards), *look_at_versions(), *look_at_other_rays(), *look_at_judge()]
    given = any(word.startswith("recipe=") for word in words)
    try:
        arguments = parse_arguments(words if given else [_DEFAULT_RECIPE, *words])
        config = load_config(arguments, now=datetime.now())
    except WmtpError as error:
        ray = _tried("Ray", check_ray_can_start)
        return DoctorReport((*findings, ray, Finding("problem", "configuration", str(error))), "")
    name = config.recipe if config.preset is None else f"{config.recipe}, preset {config.preset}"
    findings += [Finding("ok", "configuration", name), *_look_at_files(config)]
    fit, estimate = _look_at_fit(config, cards, others=findings)
    findings += [*fit, *(_tried(check.subject, check.look) for check in start_checks(config))]
    findings += [*_look_at_disk(config, estimate), *_look_at_run(config, resume=arguments.resume, others=findings)]
    return DoctorReport(tuple(findings), render_estimate(estimate) if estimate is not None else "")


def _look_at_files(config: RunConfig) -> list[Finding]:
    """Check that the files exist, then read them as a run would."""
    findings = [_tried(_FILES, lambda: check_files(config), "all present")]
    findings += [Finding("warning", "earlier name", said, "read as it is; rename it") for said in earlier_names(config)]
    if config.tokenizer.path.is_file() and _has_params(config.model.path):
        findings.append(
            _tried(
                _MODEL,
                lambda: check_model_fits(config, run_tokenizer(config)),
                "readable, and made for each other",
            )
        )
    if set(config.stages) & {1, 2}:
        train, valid = config.data.train_file, config.data.valid_file
        findings += [_look_at_index(config, "index", train, config.data.index_file)] if train.exists() else []
        findings += [_look_at_index(config, "valid index", valid, None)] if valid and valid.exists() else []
        other = config.compared_file
        findings += [_look_at_index(config, "compared index", other, None)] if other and other.exists() else []
    return findings


def _has_params(model: Path) -> bool:
    """Whether there is a model to look at; what hinders that, `check_files` has said."""
    try:
        return ModelFolder(model).params.is_file()
    except WmtpError:
        return False


def _look_at_index(config: RunConfig, subject: str, jsonl: Path, out: Path | None) -> Finding:
    index_path = index_path_of(jsonl, out)
    if not index_path.exists():
        return _look_at_rows(config, subject, jsonl, index_path)
    try:
        index = load_index(jsonl, out)
        tokenizer_hash = run_tokenizer(config).counts_hash if config.tokenizer.path.is_file() else ""
    except WmtpError as error:
        return Finding("problem", subject, str(error))
    found = f"{len(index):,} rows, fresh"
    if index.tokenizer_hash != tokenizer_hash:
        return Finding(
            "warning", subject, f"{found}, tokens of another tokenizer or template", "the first run counts them anew"
        )
    return Finding("ok", subject, found)


def _look_at_rows(config: RunConfig, subject: str, jsonl: Path, index_path: Path) -> Finding:
    """Read a file without an index, where that takes a second, for the rows over which a run would be refused."""
    reason = why_not_writable(index_path.parent) if index_path.parent.is_dir() else "no such folder"
    if reason is not None:
        return Finding("problem", subject, f"{index_path} cannot be written ({reason})", "set data.index_file")
    try:
        if jsonl.stat().st_size <= LARGE_BYTES:
            build_index(jsonl, on_error=config.data.on_error)
    except WmtpError as error:
        return Finding("problem", subject, str(error))
    remedy = f"the first run builds it; or now: wmtp data index {jsonl} --tokenizer {config.tokenizer.path}"
    return Finding("warning", subject, "not built yet", remedy)


def _look_at_fit(
    config: RunConfig, cards: list[Card], *, others: Sequence[Finding]
) -> tuple[list[Finding], RunEstimate | None]:
    """Estimate memory for the GPU found here, else, and for a cluster elsewhere, for `cluster.gpu_type`.

    A model that cannot be read is a problem here unless `others` name it already.
    """
    here = cards[0] if cards and not joins_a_cluster() else None
    card = here or (CARDS[config.cluster.gpu_type] if config.cluster.gpu_type else None)
    try:
        estimate = estimate_run(config, {}, None, card=card)
    except ArtifactError as error:
        is_named = any(each.level == "problem" and each.subject in (_FILES, _MODEL) for each in others)
        return [] if is_named else [Finding("problem", _MODEL, str(error))], None
    load = estimate.load
    usable = load.device.usable_bytes
    found = f"{load.total_bytes / GIB:.1f} GiB on {load.device.name}"
    found += "" if usable is None else f" of {usable / GIB:.1f} GiB usable"
    return [_tried("memory", lambda: require_fit(estimate), found)], estimate


def _look_at_disk(config: RunConfig, estimate: RunEstimate | None) -> list[Finding]:
    root = config.storage_root
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    needed = 0 if estimate is None else _checkpoint_bytes(config, estimate)
    found = f"{free / GIB:.1f} GiB free; the run's checkpoints take up to {needed / GIB:.1f} GiB"
    if free < needed:
        remedy = "free space, lower train.keep_checkpoints or train.keep_best_checkpoints, or set storage_root=DIR"
        return [Finding("warning", "disk", found, remedy)]
    return [Finding("ok", "disk", found)]


def _look_at_run(config: RunConfig, *, resume: bool, others: list[Finding]) -> list[Finding]:
    """Look for a run of this name, and plan as a run would where nothing has to be built or fixed before."""
    run = _tried("run", lambda: check_run_directory(config, resume=resume), config.run_name)
    if any(finding.level == "problem" for finding in (run, *others)) or not _has_fresh_indexes(config):
        return [run]
    if config.rounds.count is not None:
        return [run, _tried("rounds", lambda: _planned_rounds(config))]
    return [run, _tried("plan", lambda: check_plans(config, prepare(config).plans), "every step can be made")]


def _planned_rounds(config: RunConfig) -> str:
    from wmtp_ray.flows.run.launch_rounds import plan_rounds  # with the decoder and the judge: torch

    return plan_rounds(config)


def _has_fresh_indexes(config: RunConfig) -> bool:
    """Whether planning would only read."""
    if config.stages == (3,) or not config.rounds.reads_file:
        return True
    tokenizer_hash = run_tokenizer(config).counts_hash
    files = [(config.data.train_file, config.data.index_file), (config.data.valid_file, None)]
    files.append((config.compared_file, None))
    try:
        return all(load_index(path, out).tokenizer_hash == tokenizer_hash for path, out in files if path is not None)
    except WmtpError:
        return False


def _checkpoint_bytes(config: RunConfig, estimate: RunEstimate) -> int:
    """Weights and optimizer of every kept checkpoint, of the one being written, and the final policy."""
    load, train = estimate.load, config.train
    parts = load.rank().parts
    shares = load.work.shards
    state = shares * (parts["parameters"] + parts["optimizer"])
    return state * (train.keep_checkpoints + train.keep_best_checkpoints + 1) + shares * parts["parameters"]


def _tried(subject: str, look: Callable[[], str | None], found: str = "") -> Finding:
    """Turn a check's error into a finding; its message says what to do."""
    try:
        said = look()
    except WmtpError as error:
        return Finding("problem", subject, str(error))
    return Finding("ok", subject, said or found)
