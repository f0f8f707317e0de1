"""An overview as plain text of at most 100 columns, with bars of block characters. Measures nothing."""

from collections.abc import Mapping, Sequence

import numpy as np

from wmtp_ray.config.sampling import DifficultySource, ProblemClass
from wmtp_ray.data.overview import QUANTILES, Difficulty, Group, Lengths, Overview, Ownership
from wmtp_ray.text_tables import bar, percent, table

BAR_WIDTH = 30
LENGTH_BINS = 12
BANDS: Mapping[DifficultySource, tuple[int, int]] = {"raw": (0, 1), "cf_rating": (0, 200), "quantile": (1, 10)}
MAX_NAME = 48
LISTED_PROBLEMS = 5
CLASS_WORDS: Mapping[ProblemClass, str] = {
    "both": "both: correct and incorrect rows",
    "only_correct": "only_correct: no incorrect row",
    "only_incorrect": "only_incorrect: no correct row",
}


def render_overview(overview: Overview) -> str:
    """Describe an index section by section."""
    sections = [
        _title(overview),
        f"By language\n{table(_group_rows(overview.languages, overview.num_rows))}",
        f"By contest or data set; raw difficulty: least-median-greatest\n"
        f"{table(_group_rows(overview.sources, overview.num_rows, with_difficulty=True))}",
        f"Difficulty under each data.difficulty_source: rows that the bins would hold\n{table(_bin_rows(overview))}",
        *(_value_bars(difficulty) for difficulty in overview.difficulties if difficulty.rows_by_value),
        _length_section(overview),
        f"Problems and their rows\n{table(_ownership_rows(overview.ownership, overview.num_rows))}",
        _class_section(overview),
    ]
    return "\n\n".join(sections)


def _title(overview: Overview) -> str:
    correct = percent(overview.num_correct, overview.num_rows)
    return (
        f"{overview.path}\n  {overview.num_rows:,} rows of {overview.num_problems:,} problems; "
        f"{overview.num_correct:,} rows are correct ({correct})"
    )


def _group_rows(groups: Sequence[Group], num_rows: int, *, with_difficulty: bool = False) -> list[list[str]]:
    header = ["", "rows", "share", "problems", "correct"]
    rows = [
        [
            _shortened(group.name or "(not said)"),
            f"{group.num_rows:,}",
            percent(group.num_rows, num_rows),
            f"{group.num_problems:,}",
            percent(group.num_correct, group.num_rows),
        ]
        for group in groups
    ]
    if with_difficulty:
        header += ["difficulty", "unknown"]
        for row, group in zip(rows, groups, strict=True):
            row += [_range(group), percent(group.num_unknown, group.num_rows)]
    return [header, *rows]


def _range(group: Group) -> str:
    return "-" if group.difficulty_range is None else "-".join(map(str, group.difficulty_range))


def _bin_rows(overview: Overview) -> list[list[str]]:
    """One line a source; bins of the same name share a column."""
    bins = list(dict.fromkeys(name for difficulty in overview.difficulties for name in difficulty.rows_by_bin))
    header = ["", "unknown", "in no bin", *bins]
    rows = [
        [
            difficulty.source,
            *(
                _with_share(rows, overview.num_rows)
                for rows in (
                    difficulty.num_unknown,
                    difficulty.num_outside,
                    *(difficulty.rows_by_bin.get(name, 0) for name in bins),
                )
            ),
        ]
        for difficulty in overview.difficulties
    ]
    return [header, *rows]


def _with_share(rows: int, whole: int) -> str:
    return f"{rows:,} ({percent(rows, whole)})"


def _value_bars(difficulty: Difficulty) -> str:
    """One bar for each code; ratings and percentiles are put together in bands, 800-999 or 1-10."""
    first, width = BANDS[difficulty.source]
    by_band: dict[int, int] = {}
    for value, rows in difficulty.rows_by_value.items():
        low = first + (value - first) // width * width
        by_band[low] = by_band.get(low, 0) + rows
    lines = [(str(low) if width == 1 else f"{low}-{low + width - 1}", rows) for low, rows in by_band.items()]
    return f"Rows by difficulty, {difficulty.source}; unknown ones left out\n{_bars(lines)}"


def _bars(lines: Sequence[tuple[str, int]]) -> str:
    most = max(rows for _, rows in lines)
    return table([[label, f"{rows:,}", bar(rows / most, BAR_WIDTH)] for label, rows in lines], left=(2,))


def _length_section(overview: Overview) -> str:
    header = ["", *(f"{quantile:.0%}" for quantile in QUANTILES[:-1]), "longest"]
    rows = [[lengths.name, *(f"{value:,}" for value in lengths.quantiles)] for lengths in overview.lengths]
    if overview.num_over_max_tokens is None:
        note = "  Tokens are not counted yet: `wmtp data index FILE --tokenizer tokenizer.model` counts them."
    else:
        over = _with_share(overview.num_over_max_tokens, overview.num_rows)
        note = f"  {over} rows are over data.max_tokens={overview.max_tokens:,} and would be left out."
    bars = _length_bars([lengths for lengths in overview.lengths if "correct" in lengths.name], overview.unit)
    return f"Lengths in {overview.unit}: quantiles\n{table([header, *rows])}\n{note}\n\n{bars}"


def _length_bars(by_class: Sequence[Lengths], unit: str) -> str:
    """One column of bars for each class, over ranges that grow geometrically; shares are of the class."""
    shortest = max(1, min(int(lengths.values_N.min()) for lengths in by_class))
    longest = max(max(lengths.quantiles[-2] for lengths in by_class), shortest + 1)
    edges = np.unique(np.geomspace(shortest, longest + 1, LENGTH_BINS + 1).astype(np.int64))
    shares = [_shares(lengths, edges) for lengths in by_class]
    most = max(max(of_class) for of_class in shares)
    rows = [[unit, *(text for lengths in by_class for text in ("", lengths.name))]]
    for place in range(len(edges)):
        last = place == len(edges) - 1
        label = f"{edges[place]:,}+" if last else f"{edges[place]:,}-{edges[place + 1] - 1:,}"
        cells = [
            text
            for of_class in shares
            for text in (percent(of_class[place], 1.0), bar(of_class[place] / most, BAR_WIDTH).ljust(BAR_WIDTH))
        ]
        rows.append([label, *cells])
    return f"How long they are; the last line is the longest percent\n{table(rows, left=(0, 2, 4))}"


def _shares(lengths: Lengths, edges: np.ndarray) -> list[float]:
    """Shares of the lengths in [edge, next edge), the last range open."""
    places_N = np.maximum(np.searchsorted(edges, lengths.values_N, side="right") - 1, 0)
    counts = np.bincount(places_N, minlength=len(edges))
    return [float(count) / len(lengths.values_N) for count in counts]


def _ownership_rows(ownership: Ownership, num_rows: int) -> list[list[str]]:
    rows_P = ownership.rows_P
    num_top_percent = -(-len(rows_P) // 100)
    rows = [
        [f"rows of a problem, median (most: {rows_P[0]:,})", f"{int(np.median(rows_P)):,}", ""],
        _owned(f"the top 1 % of problems ({num_top_percent:,}) own", ownership.rows_of_top_percent, num_rows),
        _owned("the 10 largest problems own", int(rows_P[:10].sum()), num_rows),
    ]
    for name, owned in zip(ownership.top_names[:LISTED_PROBLEMS], rows_P.tolist(), strict=False):
        rows.append(_owned(f"largest: {_shortened(name)}", owned, num_rows))
    return rows


def _class_section(overview: Overview) -> str:
    classes, languages = overview.problem_classes, overview.class_languages
    num_problems = sum(counts.num_problems for counts in classes.values())
    num_rows = sum(counts.num_rows for counts in classes.values())
    rows = [
        [
            CLASS_WORDS[name],
            f"{counts.num_problems:,}",
            percent(counts.num_problems, num_problems),
            f"{counts.num_rows:,}",
            percent(counts.num_rows, num_rows),
        ]
        for name, counts in classes.items()
    ]
    num_solved = classes["both"].num_problems + classes["only_correct"].num_problems
    which = "" if languages is None else f" in data.languages=[{','.join(languages)}]"
    return (
        f"Problems by the labels of their rows{which}\n"
        f"{table([['', 'problems', 'share', 'rows', 'share'], *rows])}\n"
        "  Weighting can only help where few problems have correct rows: here "
        f"{num_solved:,} of {num_problems:,} have any ({percent(num_solved, num_problems)})."
    )


def _owned(what: str, rows: int, num_rows: int) -> list[str]:
    return [what, f"{rows:,} rows", percent(rows, num_rows)]


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."
