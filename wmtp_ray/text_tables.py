"""The one way to print a table: aligned columns of plain text, the same in a terminal, a pipe and a file.

Also bars of block characters. Measures nothing.
"""

import textwrap
from collections.abc import Sequence

_COLUMNS = 80  # of text around a table; a table is as wide as its cells, so that no cell is broken
_EIGHTHS = " ▏▎▍▌▋▊▉"


def table(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), indent: int = 2) -> str:
    """Align cells in columns, two blanks apart; `left` are the columns of words, all others are right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def titled_table(title: str, rows: Sequence[Sequence[str]], caption: str = "", *, left: Sequence[int] = (0,)) -> str:
    """Return a table, whose first row is its header, under a title and above a caption, with a blank line on top."""
    words = [textwrap.fill(caption, _COLUMNS)] if caption else []
    return "\n".join(["", title, table(rows, left=left), *words])


def bar(frac: float, width: int) -> str:
    """Draw a fraction of `width` characters to an eighth of a character: bar(0.3, 5) -> "█▌"; above 0 never empty."""
    eighths = round(frac * width * 8)
    if frac > 0.0:
        eighths = max(eighths, 1)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def percent(part: float, whole: float) -> str:
    """Return a share such as "48 %", "0.4 %", "< 0.1 %", or "-" of nothing."""
    if whole == 0:
        return "-"
    share = 100.0 * part / whole
    if 0.0 < share < 0.1:
        return "< 0.1 %"
    return f"{share:.1f} %" if 0.0 < share < 10.0 else f"{share:.0f} %"
