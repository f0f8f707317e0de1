"""Sections to one HTML file that needs nothing else: style, script, Plotly and all data stand in it.

Program texts and names are hostile: the template escapes every text, and data for the script is JSON in which no
character can end a script element. A content security policy forbids the page to load anything.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wmtp_ray.report.blocks import Figure, Programs, Section, Trace
from wmtp_ray.tracking.token_evidence import ProgramPair, TokenTrace

OPEN_PAIRS = 3  # the others unfold on a click
NUM_DROPS = 3
_LABEL_CHARS = 12


@dataclass(frozen=True)
class Token:
    """A token as the template writes it: text, colour class, strength 0..1, and what its tooltip says."""

    text: str
    css_class: str
    strength: float
    tooltip: str


@dataclass(frozen=True)
class Program:
    """One side of a pair: its tokens coloured by the run's own weighting, and the weights of all for the script."""

    title: str
    tokens: tuple[Token, ...]
    num_hidden: int
    weights: dict[str, list[float]]


@dataclass(frozen=True)
class Pair:
    """A pair as the template writes it; `curve` is a figure's number, None without a critic."""

    problem: str
    prompt: str
    is_minimal: bool
    programs: tuple[Program, Program]
    curve: Figure | None


def render_page(title: str, subtitle: str, made: str, sections: Sequence[Section]) -> str:
    """Return the page; `made` says when and from what."""
    environment = Environment(
        loader=PackageLoader("wmtp_ray.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbered = _Figures()
    body = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        made=made,
        sections=sections,
        figure=numbered.add,
        pairs_of=pairs_of,
        open_pairs=OPEN_PAIRS,
        weighting_names=weighting_names,
        json=as_json,
        style=_inline("report.css"),
        script=_inline("report.js"),
        plotly=_plotly(),
        all_figures=numbered.json,
    )
    return str(body)


def as_json(value: Any) -> Markup:
    """Return JSON that is safe in a script element and, in single quotes, in an attribute."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode("utf-8")
    for character in "<>&'\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def pairs_of(block: Programs) -> list[Pair]:
    """Turn the evidence into what the template writes."""
    return [_pair(pair, block) for pair in block.pairs]


def weighting_names(block: Programs) -> list[str]:
    """Return the weightings that the programs can be coloured by, the run's own first."""
    names = list(block.pairs[0].correct.weights)
    return sorted(names, key=lambda name: name != block.weighting)


class _Figures:
    """Numbers the figures in the order in which the template meets them."""

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []

    def add(self, figure: Figure) -> int:
        axes = {"xaxis": {"title": {"text": figure.x_title}}, "yaxis": {"title": {"text": figure.y_title}}}
        layout = {**figure.layout}
        for name, axis in axes.items():
            layout[name] = axis | layout.get(name, {})
        self._found.append({"traces": [_escaped(trace) for trace in figure.traces], "layout": layout})
        return len(self._found) - 1

    def json(self) -> Markup:
        return as_json(self._found)


def _escaped(value: Any) -> Any:
    """Plotly reads tags in its texts: escape every text of a trace but colours, which begin with "@"."""
    if isinstance(value, str):
        return value if value.startswith("@") else html.escape(value, quote=False)
    if isinstance(value, dict):
        return {key: _escaped(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(each) for each in value]
    return value


def _pair(pair: ProgramPair, block: Programs) -> Pair:
    programs = [
        _program(title, trace, block) for title, trace in (("correct", pair.correct), ("incorrect", pair.incorrect))
    ]
    return Pair(pair.problem, pair.prompt, pair.is_minimal, (programs[0], programs[1]), _curve(pair))


def _program(title: str, trace: TokenTrace, block: Programs) -> Program:
    weights = trace.weights.get(block.weighting, (1.0,) * len(trace.tokens))
    tokens = tuple(
        Token(
            visible(text),
            css_class(
                weight, block.clip_min, block.clip_max, trace.edit[0] <= place < max(trace.edit[1], trace.edit[0] + 1)
            ),
            strength(weight, block.clip_min, block.clip_max),
            _tooltip(trace, place, weight),
        )
        for place, (text, weight) in enumerate(zip(trace.tokens, weights, strict=True))
    )
    shown = {name: [float(f"{weight:.3g}") for weight in each] for name, each in trace.weights.items()}
    return Program(title, tokens, trace.num_tokens - len(trace.tokens), shown)


def visible(text: str) -> str:
    """Return a token's text; a token of blanks only gets a visible mark at each line break, to show its colour."""
    if text == "<end>":
        return "⟨end⟩"
    return text.replace("\n", "↵\n") if not text.strip() else text


def css_class(weight: float, clip_min: float, clip_max: float, is_edit: bool) -> str:
    """Return the classes of a token: direction from 1, clipped, dropped or pushed down, and whether it is edited."""
    classes = ["up" if weight > 1.0 else "down"]
    if weight <= 0.0:
        classes = ["pushed" if weight < 0.0 else "dropped"]
    elif weight >= clip_max * (1 - 1e-4):
        classes.append("at-max")
    elif weight <= clip_min * (1 + 1e-4):
        classes.append("at-min")
    return " ".join([*classes, "edit"] if is_edit else classes)


def strength(weight: float, clip_min: float, clip_max: float) -> float:
    """Return 0 for weight 1 and 1 for a weight at its clip bound, on a scale of ratios, in steps of 1/100.

    A lower clip of 0, which a ratio never reaches, is drawn as 0.1; a weight below 0 is as strong as it is far from 0.
    `templates/report.js` does the same.
    """
    if weight <= 0.0:
        return round(min(1.0, -weight), 2)
    most = math.log(clip_max) if weight > 1.0 else -math.log(clip_min or 0.1)
    return round(min(1.0, abs(math.log(weight)) / most), 2) if most > 0 else 0.0


def _tooltip(trace: TokenTrace, place: int, weight: float) -> str:
    parts = [f"weight {weight:.3g}", f"−log p {trace.losses[place]:.3g}"]
    if trace.values is not None and trace.td_errors is not None:
        parts += [f"V {trace.values[place]:.3g}", f"TD error {trace.td_errors[place]:+.3g}"]
    return " · ".join(parts)


def _curve(pair: ProgramPair) -> Figure | None:
    """V along both programs, without the state after the end, which nothing trains."""
    if pair.correct.values is None or pair.incorrect.values is None:
        return None
    traces: list[Trace] = []
    for trace, name, colour in ((pair.correct, "correct", "@good"), (pair.incorrect, "incorrect", "@bad")):
        traces += list(_value_traces(trace, name, colour))
    begin, end = pair.incorrect.edit
    shape = {
        "type": "rect", "x0": begin, "x1": max(end, begin + 1), "yref": "paper", "y0": 0, "y1": 1, "layer": "below",
        "fillcolor": "@faint/0.18", "line": {"width": 0},
    }  # fmt: skip
    layout = {"shapes": [shape], "height": 230}
    return Figure("", "", tuple(traces), "tokens read", "V", layout)


def _value_traces(trace: TokenTrace, name: str, colour: str) -> Iterator[Trace]:
    assert trace.values is not None
    assert trace.prompt_value is not None
    is_whole = len(trace.values) == trace.num_tokens
    values = [trace.prompt_value, *(trace.values[:-1] if is_whole else trace.values)]
    texts = ["(prompt)", *(visible(text).replace("\n", "") for text in trace.tokens[: len(values) - 1])]
    yield {
        "type": "scatter", "mode": "lines", "name": name, "x": list(range(len(values))), "y": values, "text": texts,
        "hoverinfo": "text+y+name", "line": {"color": colour, "width": 2, "shape": "linear"},
    }  # fmt: skip
    changes = [(after - before, place) for place, (before, after) in enumerate(pairwise(values), 1)]
    drops = [place for change, place in sorted(changes)[:NUM_DROPS] if change < 0]
    yield {
        "type": "scatter", "mode": "markers+text", "name": f"{name}: largest drops", "x": drops,
        "y": [values[place] for place in drops], "text": [texts[place].strip()[:_LABEL_CHARS] for place in drops],
        "textposition": "bottom center", "textfont": {"size": 10, "color": colour}, "showlegend": False,
        "marker": {"color": colour, "symbol": "triangle-down", "size": 9}, "hoverinfo": "skip",
    }  # fmt: skip


def _inline(name: str) -> Markup:
    return Markup(files("wmtp_ray.report").joinpath("templates", name).read_text(encoding="utf-8"))


def _plotly() -> Markup:
    """Return Plotly's own bundle; nothing in it may end its script element."""
    source = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return Markup(source.replace("</script", "<\\/script"))
