"""What the documents say: their commands, links, and the files and keys they name. Checks nothing itself.

A fenced block without a language, or with `bash`, is commands; a line that begins with a blank or follows a backslash
continues the one before. A synopsis becomes commands too, one for each alternative:

    wmtp x A|B [--limit 50] [--format NAME] [key=value ...]  ->  wmtp x A --limit 50 --format NAME
                                                                 wmtp x B --limit 50 --format NAME
"""

import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "storage" / "README.md"])
KOREAN = ROOT / "README.ko.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(^|\s)#.*")
_OPTIONAL = re.compile(r"(?<!\S)\[([^\]]*)\](?!\S)")
_ALTERNATIVES = re.compile(r"[\w./-]+(\|[\w./-]+)+")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Command:
    """One command: its words without those that set its environment, and where it stands."""

    words: tuple[str, ...]
    document: str

    def __str__(self) -> str:
        return f"{self.document}: {shlex.join(self.words)}"


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands_of(path: Path) -> list[Command]:
    """Return the commands of a document, in order."""
    return [Command(words, relative(path)) for words in commands_in(path.read_text(encoding="utf-8"))]


def commands_in(text: str) -> list[tuple[str, ...]]:
    """Return the words of every command in a text."""
    blocks = [block for language, block in _FENCE.findall(text) if language in ("", "bash")]
    lines = [line for block in blocks if not block.startswith("{") for line in _whole_lines(block)]
    split = [_without_environment(shlex.split(one)) for line in lines for one in _spelled_out(line)]
    return [tuple(words) for words in split if words]


def fenced(text: str) -> list[str]:
    """Return every fenced block, whatever it holds."""
    return [block for _, block in _FENCE.findall(text)]


def prose_of(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def quoted_in(text: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def links_in(text: str) -> list[str]:
    """Return the targets of links and pictures that lie in this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not target.startswith(("http:", "https:", "#"))]


def _whole_lines(block: str) -> list[str]:
    lines: list[str] = []
    for line in (_COMMENT.sub("", line) for line in block.replace("\\\n", " ").splitlines()):
        if line.startswith((" ", "\t")) and lines:
            lines[-1] += f" {line.strip()}"
        elif line.strip():
            lines.append(line.strip())
    return lines


def _spelled_out(line: str) -> list[str]:
    """Return the commands of a synopsis; an ordinary line is one itself. Optional parts with `...` are left out."""
    whole = _OPTIONAL.sub(lambda found: "" if "..." in found[1] else found[1], line)
    found = list(_ALTERNATIVES.finditer(whole))
    variants = max((len(each[0].split("|")) for each in found), default=1)
    return [_ALTERNATIVES.sub(partial(_chosen, number), whole) for number in range(variants)]


def _chosen(number: int, alternatives: re.Match[str]) -> str:
    """`a|b|c` -> its number-th, and from the start again where there are fewer."""
    names = alternatives[0].split("|")
    return names[number % len(names)]


def _without_environment(words: list[str]) -> list[str]:
    start = next((i for i, word in enumerate(words) if not _ASSIGNMENT.fullmatch(word)), len(words))
    return [word for word in words[start:] if word != "..."]
