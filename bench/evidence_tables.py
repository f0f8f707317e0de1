"""Tables of the evidence, in Markdown: means over seeds, and differences in pairs with 95 % intervals."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
from evidence_arms import CRITICS, METHOD, PERFECT, SHUFFLED
from scipy.stats import wilcoxon

from wmtp_ray.data.list_tasks import DEFAULT_TASKS, write_list_tasks
from wmtp_ray.data.list_tasks.list_problems import SYSTEMATIC_BUGS, asked_operations
from wmtp_ray.evaluation.pass_at_k import pass_at_k
from wmtp_ray.intervals import Float64, difference_over_problems, over_seeds

Line = dict[str, Any]
_COMPARED = ("correct", METHOD, SHUFFLED, *PERFECT)  # by stratum


def tables_of(lines: Sequence[Line]) -> str:
    """Every experiment's tables, one below the other."""
    order = sorted(lines, key=_kind)
    parts = []
    for kind, group in groupby(order, key=_kind):
        found = list(group)
        parts.append(f"{_title(kind)}\n\n{_critics(found) if kind[0] == 'critics' else _arms(found)}")
    return "\n\n".join(parts)


Kind = tuple[str, int, int, int, int, int, int]


def _kind(line: Line) -> Kind:
    """What the lines of one table share; critics are of different lengths, and draw no programs."""
    shared = line["experiment"], line["horizons"], line["held_out"], line["regime"]
    if line["experiment"] == "critics":
        return (*shared, 0, 0, 0)
    return (*shared, line["steps"], line["samples"], len(line["greedy_by_problem"]))


def _title(kind: Kind) -> str:
    experiment, horizons, held_out, regime, steps, samples, problems = kind
    words = [experiment, f"one problem in {regime} has correct rows", f"H = {horizons}"]
    words += [f"{held_out} operations held out"] if held_out else []
    words += [f"{steps} steps", f"{problems} problems", f"{samples} programs of each"] if steps else []
    return f"**{', '.join(words)}**"


def _arms(lines: Sequence[Line]) -> str:
    """What each arm solves, the differences, and both by stratum."""
    by_arm = _by_arm(lines)
    samples = lines[0]["samples"]
    ks = [k for k in (8, 64) if k <= samples]
    names = ["arm", "seeds", "greedy", "T = 1", *(f"Pass@{k}" for k in ks), "CPU-s"]
    rows = [_row(names), "|---" * len(names) + "|"]
    for name, of_arm in by_arm.items():
        cells = [_by_seed([line[key] for line in of_arm.values()]) for key in ("greedy", "pass1_t1")]
        cells += [_by_seed([_pass_at(line, k) for line in of_arm.values()]) for k in ks]
        rows.append(_row([name, str(len(of_arm)), *cells, f"{_mean(of_arm.values(), 'cpu_s'):.0f}"]))
    problems = sorted(lines[0]["greedy_by_problem"])
    differences = _differences(by_arm, problems)
    parts = [rows, [*_DIFFERENCE_HEAD, *differences] if differences else []]
    strata = strata_of(problems, lines[0]["held_out"])
    parts += [_strata(by_arm, strata), _stratum_differences(by_arm, strata)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _pass_at(line: Line, k: int) -> float:
    return float(np.mean([pass_at_k(line["samples"], passed, k) for passed in line["passed_by_problem"].values()]))


def strata_of(problems: Sequence[str], held_out: int) -> dict[str, list[str]]:
    """The problems by what they ask for.

    "held out": an operation that is in no correct row; else "systematic": one that incorrect programs usually mistake
    for the same other one; else "diffuse": all their bugs are of their own kind.
    """
    tasks = replace(DEFAULT_TASKS, held_out_operations=held_out)
    unseen = set(tasks.operations_without_correct_rows)
    found: dict[str, list[str]] = {"systematic": [], "diffuse": [], "held out": []}
    with TemporaryDirectory() as folder:
        records = write_list_tasks(Path(folder), tasks).valid_problems.read_bytes().splitlines()
    for record in map(orjson.loads, records):
        asked = asked_operations(record["prompt"])
        name = "held out" if asked & unseen else "systematic" if asked & SYSTEMATIC_BUGS.keys() else "diffuse"
        if record["task_id"] in problems:
            found[name].append(record["task_id"])
    return {name: sorted(of_stratum) for name, of_stratum in found.items() if of_stratum}


def _strata(by_arm: dict[str, dict[int, Line]], strata: dict[str, list[str]]) -> list[str]:
    """Greedy / T = 1 of each arm by stratum, means over seeds."""
    names = ["arm", *(f"{name} ({len(problems)})" for name, problems in strata.items())]
    rows = [_row(names), "|---" * len(names) + "|"]
    for arm, of_arm in by_arm.items():
        cells = [
            " / ".join(f"{np.mean([_rates(line, key, problems) for line in of_arm.values()]):.3f}" for key in _RATES)
            for problems in strata.values()
        ]
        rows.append(_row([arm, *cells]))
    return rows


def _stratum_differences(by_arm: dict[str, dict[int, Line]], strata: dict[str, list[str]]) -> list[str]:
    """The method's differences by stratum."""
    rows = []
    for stratum, problems in strata.items():
        found = _differences({name: by_arm[name] for name in _COMPARED if name in by_arm}, problems)
        rows += [row.replace("|", f"| {stratum}:", 1) for row in found]
    return [*_DIFFERENCE_HEAD, *rows] if rows else []


_DIFFERENCE_HEAD = ("| difference | seeds | greedy | T = 1 |", "|---|---|---|---|")


def _differences(by_arm: dict[str, dict[int, Line]], problems: Sequence[str]) -> list[str]:
    """Each arm minus training on correct rows, and minus the shuffled control, in pairs over seeds and problems."""
    rows = []
    for other in ("correct", SHUFFLED):
        for name in by_arm:
            if name in (other, "correct") or other not in by_arm:
                continue
            seeds = sorted(by_arm[name].keys() & by_arm[other].keys())
            mine, theirs = ([by_arm[each][seed] for seed in seeds] for each in (name, other))
            cells = [_difference(mine, theirs, key, problems) for key in _RATES]
            rows.append(f"| {name} minus {other} | {len(seeds)} | {cells[0]} | {cells[1]} |")
    return rows


_RATES = ("greedy_by_problem", "passed_by_problem")


def _difference(mine: Sequence[Line], theirs: Sequence[Line], key: str, problems: Sequence[str]) -> str:
    """Mean difference; at each end the wider of the intervals over problems and over seeds. p: Wilcoxon over problems.

    One seed has no interval over seeds: what it says holds for its critic and its base alone.
    """
    differences_SP = np.array(
        [_rates(a, key, problems) - _rates(b, key, problems) for a, b in zip(mine, theirs, strict=True)]
    )
    mean_P = differences_SP.mean(axis=0)
    found = [difference_over_problems(mean_P), over_seeds(differences_SP.mean(axis=1).tolist())]
    low = min(each.low for each in found if each.low is not None)
    high = max(each.high for each in found if each.high is not None)
    p = wilcoxon(mean_P).pvalue if mean_P.any() else 1.0
    return f"{mean_P.mean():+.3f} [{low:+.3f}, {high:+.3f}], p {p:.2g}"


def _rates(line: Line, key: str, problems: Sequence[str]) -> Float64:
    """Share of each problem's programs that pass."""
    samples = 1 if key == "greedy_by_problem" else line["samples"]
    return np.array([line[key][problem] for problem in problems], np.float64) / samples


def _critics(lines: Sequence[Line]) -> str:
    by_arm = _by_arm(lines)
    names = list(dict.fromkeys(key for line in lines for key in line["health"]))
    rows = [f"| critic | seeds | CPU-s | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for name, of_arm in by_arm.items():
        cells = [f"{np.mean([line['health'][key] for line in of_arm.values()]):.3f}" for key in names]
        seconds = f"{_mean(of_arm.values(), 'cpu_s'):.0f}"
        rows.append(_row([f"`{name}`: {CRITICS[name].what}", str(len(of_arm)), seconds, *cells]))
    return "\n".join(rows)


def _by_arm(lines: Sequence[Line]) -> dict[str, dict[int, Line]]:
    found: dict[str, dict[int, Line]] = defaultdict(dict)
    for line in lines:
        found[line["arm"]][line["seed"]] = line
    return dict(found)


def _by_seed(values: Sequence[float]) -> str:
    """The mean, and in brackets each seed's own."""
    own = f" ({', '.join(f'{value:.3f}' for value in values)})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{own}"


def _mean(lines: Iterable[Line], key: str) -> float:
    """The mean of what is known."""
    known = [line[key] for line in lines if line[key] is not None]
    return float(np.mean(known)) if known else float("nan")
