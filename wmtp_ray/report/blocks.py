"""What a section is made of: words, tables, figures, programs, and the statement that something is missing.

Plain data; `page` turns it into HTML, where every text is escaped. Colours of a figure are names beginning with "@"
("@arm-0", "@ink", "@arm-1/0.2" for a fifth of its opacity), which the page resolves for light, dark and print.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wmtp_ray.tracking.token_evidence import ProgramPair

NUM_ARM_COLOURS = 8
DASHES = ("solid", "solid", "solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

Trace = dict[str, Any]  # one of Plotly's


@dataclass(frozen=True)
class Words:
    """A paragraph; `role` is "lead" for a sentence to remember, "note" for small print."""

    kind: ClassVar = "words"
    text: str
    role: str = "plain"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; the first column holds names, `text_columns` other words, the rest numbers."""

    kind: ClassVar = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Figure:
    """A Plotly figure. The caption says what to see; the title is short and names the quantity."""

    kind: ClassVar = "figure"
    title: str
    caption: str
    traces: tuple[Trace, ...]
    x_title: str
    y_title: str
    layout: dict[str, Any]
    is_wide: bool = False


@dataclass(frozen=True)
class Programs:
    """Pairs of programs with their tokens coloured by weight, each above the curves of V."""

    kind: ClassVar = "programs"
    run: str
    weighting: str
    clip_min: float
    clip_max: float
    pairs: tuple[ProgramPair, ...]


@dataclass(frozen=True)
class Listing:
    """A text with its line breaks, folded up under a title."""

    title: str
    text: str


@dataclass(frozen=True)
class Listings:
    """Several texts under a caption."""

    kind: ClassVar = "listings"
    caption: str
    listings: tuple[Listing, ...]


@dataclass(frozen=True)
class Missing:
    """A note that no file of the runs has something: what is missing, and the command that makes it."""

    kind: ClassVar = "missing"
    what: str
    remedy: str
    command: str | None = None


Block = Words | Bullets | Table | Figure | Programs | Listings | Missing


@dataclass(frozen=True)
class Section:
    """One part of the page under an anchor."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


def arm_colour(number: int, opacity: float | None = None) -> str:
    """Return the name of an arm's colour."""
    name = f"@arm-{number % NUM_ARM_COLOURS}"
    return name if opacity is None else f"{name}/{opacity:g}"


def arm_dash(number: int) -> str:
    """Return an arm's dash, so that lines differ in print without colour too."""
    return DASHES[number % len(DASHES)]


def categories(**more: Any) -> dict[str, Any]:
    """Return an axis of names from top to bottom, none left out for lack of room."""
    return {"autorange": "reversed", "tickmode": "linear", "dtick": 1, **more}


def names_of(names: Sequence[str], most: int = 6) -> str:
    """List names in a sentence: "a, b and 3 more"."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def figures(value: float | None, decimals: int = 3) -> str:
    """Return a number with so many decimals, a whole one from 100 on, "–" for none."""
    if value is None or value != value:
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, decimals) + 0.0:.{decimals}f}"  # no -0.000
    return text.replace("-", "−")


def signed(value: float, decimals: int = 3) -> str:
    """Return a difference with its sign, a proper minus."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def share(value: float | None) -> str:
    """Return a fraction in percent, "–" for none."""
    return "–" if value is None or value != value else f"{100 * value:.1f}\u00a0%"
