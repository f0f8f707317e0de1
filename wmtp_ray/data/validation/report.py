"""The result of a validation, as a table and as JSON. Decides nothing: severities are in `rules`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from wmtp_ray.data.validation.rules import Finding, Rule
from wmtp_ray.text_tables import percent, table

SHOWN_EXAMPLES = 5
MAX_EXAMPLE = 200


@dataclass(frozen=True)
class CheckedFile:
    """One file of a validation; `manifest` is the manifest.json that names it, if there is one."""

    name: str
    path: str
    num_bytes: int
    sha256: str
    manifest: str | None
    num_rows: int
    num_correct: int
    num_problems: int


@dataclass(frozen=True)
class ValidationReport:
    """What was checked and what was found. `benchmarks` counts the tasks of each benchmark."""

    files: tuple[CheckedFile, ...]
    benchmarks: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def has_problems(self) -> bool:
        """Whether there is an error; warnings alone are no problem."""
        return any(finding.rule.severity == "error" for finding in self.findings)

    def render(self) -> str:
        """Describe everything in text: the files, every rule with what broke it, and examples."""
        sections = [
            f"Files\n{table(_file_rows(self.files), left=(0, 6))}",
            f"Benchmarks looked for: {_benchmarks(self.benchmarks)}",
            f"Checks\n{table(self._rule_rows(), left=(0, 1, 3))}",
            *(_details(finding) for finding in self.findings),
            self._verdict(),
        ]
        return "\n\n".join(sections) + "\n"

    def to_json(self) -> str:
        """Return everything as one JSON object; of a finding at most 1,000 examples."""
        findings = [
            {
                "rule": finding.rule.name.lower(),
                "severity": finding.rule.severity,
                "title": finding.rule.title,
                "files": finding.files,
                "count": finding.count,
                "unit": finding.unit,
                "examples": finding.examples,
            }
            for finding in self.findings
        ]
        content = {
            "has_problems": self.has_problems,
            "files": [asdict(file) for file in self.files],
            "benchmarks": self.benchmarks,
            "findings": findings,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def _rule_rows(self) -> list[list[str]]:
        num_rows = {file.name: file.num_rows for file in self.files}
        rows = []
        for rule in Rule:
            broken = [finding for finding in self.findings if finding.rule is rule]
            if not broken:
                rows.append([rule.severity, rule.title, "none", _not_checked(rule, self)])
            for finding in broken:
                whole = num_rows[finding.files[-1]]
                share = f" ({percent(finding.count, whole)})" if finding.unit == "rows" else ""
                where = f"{finding.unit}{share} in {' and '.join(finding.files)}"
                rows.append([rule.severity, rule.title, f"{finding.count:,}", where])
        return rows

    def _verdict(self) -> str:
        rules = {finding.rule for finding in self.findings}
        errors = sum(rule.severity == "error" for rule in rules)
        warnings = f"{len(rules) - errors} of {sum(rule.severity == 'warning' for rule in Rule)} warnings apply"
        if self.has_problems:
            return f"Refused (exit code 2): {errors} checks failed; {warnings}"
        return f"No errors; {warnings}"


def _file_rows(files: Sequence[CheckedFile]) -> list[list[str]]:
    header = ["file", "rows", "correct", "problems", "bytes", "SHA-256", "manifest"]
    rows = [
        [
            file.name,
            f"{file.num_rows:,}",
            percent(file.num_correct, file.num_rows),
            f"{file.num_problems:,}",
            f"{file.num_bytes:,}",
            file.sha256[:12],
            "in none" if file.manifest is None else "named",
        ]
        for file in files
    ]
    return [header, *rows]


def _benchmarks(benchmarks: dict[str, int]) -> str:
    return (
        ", ".join(f"{name} ({tasks:,} tasks)" for name, tasks in benchmarks.items()) or "none (--benchmark NAME=FILE)"
    )


def _not_checked(rule: Rule, report: ValidationReport) -> str:
    """Return why a rule had nothing to check."""
    if rule in (Rule.PROBLEM_IN_TWO_SPLITS, Rule.INSTRUCTION_IN_TWO_SPLITS) and len(report.files) < 2:
        return "not checked: one file only"
    if rule in (Rule.TEST_TASK, Rule.OTHER_TASK, Rule.COMMON_PHRASE) and not report.benchmarks:
        return "not checked: no benchmark given"
    if rule is Rule.OTHER_BYTES and all(file.manifest is None for file in report.files):
        return "not checked: no manifest.json names a file"
    return ""


def _details(finding: Finding) -> str:
    examples = finding.examples[:SHOWN_EXAMPLES]
    lines = [
        f"    {example if len(example) <= MAX_EXAMPLE else example[:MAX_EXAMPLE] + ' ...'}" for example in examples
    ]
    more = finding.count - len(examples)
    if more > 0:
        lines.append(f"    and {more:,} more")
    return "\n".join([f"  {finding.rule.severity}: {finding.rule.title}, {' and '.join(finding.files)}", *lines])
