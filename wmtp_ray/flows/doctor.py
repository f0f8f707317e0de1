"""`wmtp doctor`: would a run work here? Looks at the machine and at what a configuration needs; starts nothing.

The machine's part is `findings.py`; here are the configuration, its files, the index, the storage and the estimate.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from wmtp_ray.config.load import check_files, earlier_names, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.index_file import index_path_of, load_index
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import WmtpError
from wmtp_ray.flows.findings import (
    Finding,
    find_cards,
    look_at_judge,
    look_at_machine,
    look_at_ray,
    look_at_versions,
)
from wmtp_ray.flows.prepare import check_model_fits
from wmtp_ray.training.estimate.hardware import CARDS, GIB, Card
from wmtp_ray.training.estimate.render import render_estimate
from wmtp_ray.training.estimate.run_estimate import RunEstimate, estimate_run, require_fit

_MARKS = {"ok": "  ok  ", "warning": " warn ", "problem": "  NO  "}
_DEFAULT_RECIPE = "recipe=verifiable"


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
        width = max(len(finding.subject) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"[{_MARKS[finding.level]}] {finding.subject:<{width}}  {finding.found}")
            if finding.remedy:
                lines.append(f"{'':>{width + 11}}-> {finding.remedy}")
        problems = sum(finding.level == "problem" for finding in self.findings)
        verdict = "A run can start." if self.ok else f"{problems} problem{'s' * (problems > 1)} would stop a run."
        return "\n".join([*lines, *([f"\n{self.estimate}"] if self.estimate else []), f"\n{verdict}"])


def doctor(words: Sequence[str]) -> DoctorReport:
    """Look at the machine and at the configuration that `words` give (as for launch; recipe=verifiable unless said)."""
    cards = find_cards()
    findings = [*look_at_machine(cards), *look_at_versions(), *look_at_ray(), *look_at_judge()]
    given = any(word.startswith("recipe=") for word in words)
    try:
        config = load_config(parse_arguments(words if given else [_DEFAULT_RECIPE, *words]), now=datetime.now())
    except WmtpError as error:
        return DoctorReport((*findings, Finding("problem", "configuration", str(error))), "")
    name = config.recipe if config.preset is None else f"{config.recipe}, preset {config.preset}"
    findings += [Finding("ok", "configuration", name), *_look_at_files(config)]
    fit, estimate = _look_at_fit(config, cards)
    findings += [*fit, *_look_at_storage(config, estimate)]
    return DoctorReport(tuple(findings), render_estimate(estimate) if estimate is not None else "")


def _look_at_files(config: RunConfig) -> list[Finding]:
    """Presence first; what is present is then read as a run would read it."""
    findings = [_tried("files", "all present", lambda: check_files(config))]
    findings += [Finding("warning", "earlier name", said, "read as it is; rename it") for said in earlier_names(config)]
    if config.tokenizer.path.is_file() and (config.model.path / "params.json").is_file():
        findings.append(
            _tried(
                "model, tokenizer",
                "readable, and made for each other",
                lambda: check_model_fits(config, CodeTokenizer(config.tokenizer.path)),
            )
        )
    if config.data.train_file.is_file():
        findings.append(_look_at_index(config))
    return findings


def _look_at_index(config: RunConfig) -> Finding:
    jsonl, out = config.data.train_file, config.data.index_file
    if not index_path_of(jsonl, out).exists():
        remedy = f"the first run builds it; or now: wmtp data index {jsonl} --tokenizer {config.tokenizer.path}"
        return Finding("warning", "index", "not built yet", remedy)
    try:
        index = load_index(jsonl, out)
        tokenizer_hash = CodeTokenizer(config.tokenizer.path).sha256 if config.tokenizer.path.is_file() else ""
    except WmtpError as error:
        return Finding("problem", "index", str(error))
    found = f"{len(index):,} rows, fresh"
    if index.tokenizer_hash != tokenizer_hash:
        return Finding("warning", "index", f"{found}, tokens of another tokenizer", "the first run counts them anew")
    return Finding("ok", "index", found)


def _look_at_fit(config: RunConfig, cards: list[Card]) -> tuple[list[Finding], RunEstimate | None]:
    """Estimate memory for the GPU found here, else, and for a cluster elsewhere, for `cluster.gpu_type`."""
    here = cards[0] if cards and "RAY_ADDRESS" not in os.environ else None
    card = here or (CARDS[config.cluster.gpu_type] if config.cluster.gpu_type else None)
    try:
        estimate = estimate_run(config, {}, None, card=card)
    except (OSError, ValueError, KeyError):  # what is wrong with the model has been said
        return [], None
    load = estimate.load
    usable = load.device.usable_bytes
    found = f"{load.total_bytes / GIB:.1f} GiB on {load.device.name}"
    found += "" if usable is None else f" of {usable / GIB:.1f} GiB usable"
    return [_tried("memory", found, lambda: require_fit(estimate))], estimate


def _look_at_storage(config: RunConfig, estimate: RunEstimate | None) -> list[Finding]:
    root = config.storage_root
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        return [Finding("problem", "storage", f"{existing} cannot be written", "set storage_root=DIR to one that can")]
    free = shutil.disk_usage(existing).free
    needed = 0 if estimate is None else _checkpoint_bytes(config, estimate)
    found = f"{root}, {free / GIB:.1f} GiB free; the run's checkpoints take up to {needed / GIB:.1f} GiB"
    if free < needed:
        remedy = "free space, lower train.keep_checkpoints or train.keep_best_checkpoints, or set storage_root=DIR"
        return [Finding("warning", "storage", found, remedy)]
    return [Finding("ok", "storage", found)]


def _checkpoint_bytes(config: RunConfig, estimate: RunEstimate) -> int:
    """Weights and optimizer of every kept checkpoint, of the one being written, and the final policy."""
    load, train = estimate.load, config.train
    parts = load.rank().parts
    shares = load.work.shards
    state = shares * (parts["parameters"] + parts["optimizer"])
    return state * (train.keep_checkpoints + train.keep_best_checkpoints + 1) + shares * parts["parameters"]


def _tried(subject: str, found: str, look: Callable[[], None]) -> Finding:
    """Turn a check that raises into a finding; its message says what to do."""
    try:
        look()
    except WmtpError as error:
        return Finding("problem", subject, str(error))
    return Finding("ok", subject, found)
