"""Tables of the evidence, in Markdown: means over seeds, and differences in pairs with 95 % intervals."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from wmtp_ray.config import arms
from wmtp_ray.intervals import difference_over_problems, over_seeds

Line = dict[str, Any]
METHOD, SHUFFLED = arms.METHOD.name, arms.arms_of("placement")[0].name


def tables_of(lines: Sequence[Line]) -> str:
    """Every experiment's table, one below the other."""
    order = sorted(lines, key=_kind)
    parts = []
    for (experiment, horizons, regime, steps), group in groupby(order, key=_kind):
        found = list(group)
        title = f"**{experiment}, one problem in {regime} has correct rows, H = {horizons}, {steps} steps**"
        parts.append(f"{title}\n\n{_critics(found) if experiment == 'critics' else _arms(found)}")
    return "\n\n".join(parts)


def _kind(line: Line) -> tuple[str, int, int, int]:
    """What the lines of one table share."""
    return line["experiment"], line["horizons"], line["regime"], line["steps"]


def _arms(lines: Sequence[Line]) -> str:
    """Greedy and temperature 1 by arm, then the method's and the ceiling's differences."""
    by_arm = _by_arm(lines)
    rows = ["| arm | seeds | greedy | T = 1 | CPU-s |", "|---|---|---|---|---|"]
    for name, of_arm in by_arm.items():
        cells = [_by_seed(of_arm.values(), key) for key in ("greedy", "pass1_t1")]
        rows.append(f"| {name} | {len(of_arm)} | {' | '.join(cells)} | {_mean(of_arm.values(), 'cpu_s'):.0f} |")
    differences = _differences(by_arm)
    return "\n".join([*rows, "", *_DIFFERENCE_HEAD, *differences] if differences else rows)


_DIFFERENCE_HEAD = ("| difference | seeds | greedy | T = 1 |", "|---|---|---|---|")


def _differences(by_arm: dict[str, dict[int, Line]]) -> list[str]:
    """Each arm minus training on correct rows, and minus the shuffled control, in pairs over seeds and problems."""
    rows = []
    for other in ("correct", SHUFFLED):
        for name in by_arm:
            if name in (other, "correct") or other not in by_arm:
                continue
            seeds = sorted(by_arm[name].keys() & by_arm[other].keys())
            mine, theirs = ([by_arm[each][seed] for seed in seeds] for each in (name, other))
            cells = [_difference(mine, theirs, key) for key in _RATES]
            rows.append(f"| {name} minus {other} | {len(seeds)} | {cells[0]} | {cells[1]} |")
    return rows


_RATES = ("greedy_by_problem", "passed_by_problem")


def _difference(mine: Sequence[Line], theirs: Sequence[Line], key: str) -> str:
    """Mean difference; at each end the wider of the intervals over problems and over seeds. p: Wilcoxon over problems.

    One seed has no interval over seeds: what it says holds for its critic and its base alone.
    """
    differences_SP = np.array([_rates(a, key) - _rates(b, key) for a, b in zip(mine, theirs, strict=True)])
    mean_P = differences_SP.mean(axis=0)
    found = [difference_over_problems(mean_P), over_seeds(differences_SP.mean(axis=1).tolist())]
    low = min(each.low for each in found if each.low is not None)
    high = max(each.high for each in found if each.high is not None)
    p = wilcoxon(mean_P).pvalue if mean_P.any() else 1.0
    return f"{mean_P.mean():+.3f} [{low:+.3f}, {high:+.3f}], p {p:.2g}"


def _rates(line: Line, key: str) -> np.ndarray:
    """Share of a problem's programs that pass, problems in the order of their names."""
    samples = 1 if key == "greedy_by_problem" else line["samples"]
    return np.array([line[key][problem] for problem in sorted(line[key])]) / samples


def _critics(lines: Sequence[Line]) -> str:
    by_arm = _by_arm(lines)
    names = list(dict.fromkeys(key for line in lines for key in line["health"]))
    rows = [f"| critic | seeds | CPU-s | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for name, of_arm in by_arm.items():
        cells = [f"{np.mean([line['health'][key] for line in of_arm.values()]):.3f}" for key in names]
        rows.append(f"| {name} | {len(of_arm)} | {_mean(of_arm.values(), 'cpu_s'):.0f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _by_arm(lines: Sequence[Line]) -> dict[str, dict[int, Line]]:
    found: dict[str, dict[int, Line]] = defaultdict(dict)
    for line in lines:
        found[line["arm"]][line["seed"]] = line
    return dict(found)


def _by_seed(lines: Iterable[Line], key: str) -> str:
    """The mean, and in brackets each seed's own."""
    values = [line[key] for line in lines]
    own = f" ({', '.join(f'{value:.3f}' for value in values)})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{own}"


def _mean(lines: Iterable[Line], key: str) -> float:
    """The mean of what is known."""
    known = [line[key] for line in lines if line[key] is not None]
    return float(np.mean(known)) if known else float("nan")
