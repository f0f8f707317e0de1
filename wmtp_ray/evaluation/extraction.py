"""From the text of an answer to the program that is judged. Judges nothing; docs/evaluation.md states the rules.

Answers come as plain programs, as Markdown with one or more blocks of code, with a draft in <think>..</think> before
them, with fences that were never opened or never closed. Fences are those of CommonMark (markdown-it-py): ``` and ~~~,
of any length, indented, in lists; what CommonMark does not cover follows it as further readings of the same text, and
the first reading wins in which a program reaches the goal: to define the function under test, or to read the input.
"""

import ast
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from markdown_it import MarkdownIt

from wmtp_ray.evaluation.python_source import (
    BUILTINS,
    DEFINITIONS,
    MAX_CHARS,
    bound_names,
    global_names,
    longest_prefix,
    parse,
)

_THINK = r"(?:think|thinking|thought|reasoning)"
# An opening tag counts at the start of a line, so that programs may hold one in a string.
_THOUGHT_TAG = re.compile(rf"^[ \t]*(?P<opening><{_THINK}>)|(?P<closing></{_THINK}>)[ \t]*", re.M | re.I)
_CLOSES = re.compile(r"\n|`{3}|~{3}|\Z")
_INLINE_FENCE = re.compile(r"^(?P<words>[^`~\n]*[^`~\s])[ \t]*(?P<fence>(?:`{3,}|~{3,})[ \t]*\w*)[ \t]*$", re.M)
_FENCE_LINE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})")
_CODE_BEGINS = re.compile(
    r"(?:async[ \t]+def|def|class|import|from|if|try|with|for)\b|@|[A-Za-z_]\w*[ \t]*(?::[^=\n]+)?="
)
_OTHER_LANGUAGES = re.compile(
    r"bash|sh|shell|zsh|console|terminal|cmd|powershell|text|txt|plaintext|output|stdout|json|ya?ml|toml|xml|html|css"
    r"|sql|diff|pycon|doctest|c|cpp|c\+\+|java|javascript|js|typescript|ts|go|rust|ruby|markdown|md"
)
_LANGUAGE_WORD = re.compile(r"\A\s*(?:python3?|py)[ \t]*\n", re.I)
_HTML_CODE = re.compile(r"</?(?:pre|code)(?: [^>\n]*)?>", re.I)
_CODE_SPAN = re.compile(r"`{1,3}(?:(?:python3?|py)[ \t]+)?([^`\n]+)`{1,3}", re.I)
_MAX_BLOCKS = 64  # the last ones of an answer

FITS, DEFINES, ACTS, PARSES, NOTHING = 4, 3, 2, 1, 0


@dataclass(frozen=True)
class Goal:
    """What makes a text the program that was asked for: it defines all `names`, or reads standard input.

    Without either, as where no problem is known, it defines any function or class.
    """

    names: frozenset[str] = frozenset()
    reads_input: bool = False

    def rank(self, source: str) -> int:
        """Return how close a text is to the goal, FITS for a program that reaches it, NOTHING for no Python."""
        tree = parse(source)
        if tree is None or all(_is_a_word(node) for node in tree.body):
            return NOTHING
        defines = any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body)
        if self.names:
            fits = self.names <= bound_names(tree.body)
        else:
            fits = _reads_input(tree) if self.reads_input else defines
        acts = any(isinstance(node, ast.Call) for node in ast.walk(tree))
        return FITS if fits else DEFINES if defines else ACTS if acts else PARSES


def program_in(text: str, goal: Goal) -> str:
    """Return the last complete program of an answer that reaches the goal.

    "Use:\\n```\\nf(1)\\n```\\nHere:\\n```py\\ndef f(x):\\n    return x\\n```" with f -> "def f(x):\\n    return x\\n".
    Where none does, it is the last block of code that parses, and without any the answer as it is.
    """
    text = without_thoughts(unix(text))
    if len(text) > MAX_CHARS:
        return text
    best, best_rank = text, NOTHING
    for reading in _READINGS:
        programs = list(reading(text))
        ranks = [goal.rank(program) for program in programs]
        top = max(ranks, default=NOTHING)
        if top <= best_rank:
            continue
        place = max(place for place, rank in enumerate(ranks) if rank == top)
        best, best_rank = _completed(programs, place), top
        if top == FITS:
            break
    return best


def _whole(text: str) -> Iterator[str]:
    yield _LANGUAGE_WORD.sub("", text)


def _fenced(text: str) -> Iterator[str]:
    """Return the blocks of CommonMark; one that does not parse also as extended to a later fence."""
    for block in blocks(text, indented_code=True):
        yield from block.variants()


def _fenced_loosely(text: str) -> Iterator[str]:
    """Return blocks whose fence opens after words on the line, or is indented deeper than CommonMark allows."""
    apart = _INLINE_FENCE.sub(r"\g<words>\n\g<fence>", text)
    for block in blocks(apart, indented_code=False):
        yield from block.variants()


def _cut_short(text: str) -> Iterator[str]:
    """Return the parsing beginnings of blocks: of a block without an end, or with words after the program."""
    for indented_code in (True, False):
        for block in blocks(text, indented_code=indented_code):
            yield longest_prefix(textwrap.dedent(block.content))


def _without_fences(text: str) -> Iterator[str]:
    """Return runs of lines that parse, each from a line that begins a statement."""
    lines = textwrap.dedent(_HTML_CODE.sub("\n", text)).split("\n")
    number, tries = 0, 0
    while number < len(lines) and tries < _MAX_BLOCKS:
        if not _CODE_BEGINS.match(lines[number]):
            number += 1
            continue
        tries += 1
        found = longest_prefix("\n".join(lines[number:]))
        if found.strip():
            yield found
        number += max(1, found.count("\n"))


def _inside_paragraphs(text: str) -> Iterator[str]:
    """Return code indented by four blanks, and code on one line with its backticks."""
    yield from (token.content for token in _markdown(True).parse(text) if token.type == "code_block")
    yield from (found[1] for found in _CODE_SPAN.finditer(text))


_READINGS: tuple[Callable[[str], Iterable[str]], ...] = (
    _whole,
    _fenced,
    _fenced_loosely,
    _cut_short,
    _without_fences,
    _inside_paragraphs,
)


@dataclass(frozen=True)
class _Block:
    """A fenced block; `behind` are the lines from its closing fence on."""

    info: str
    content: str
    behind: tuple[str, ...]

    def variants(self) -> Iterator[str]:
        """Yield the block as it is or dedented; where neither parses, what parses of it and of the lines after it."""
        language = self.info.strip().partition(" ")[0].strip("{}.").lower()
        if _OTHER_LANGUAGES.fullmatch(language) and Goal().rank(self.content) < DEFINES:
            return
        for source in (self.content, textwrap.dedent(self.content)):
            if parse(source) is not None:
                yield source
                return
        yield from (source for content in self._extended() if parse(source := textwrap.dedent(content)) is not None)

    def _extended(self) -> Iterator[str]:
        """Yield other extents of a block: a docstring closed it too early, or it never ended and holds the next."""
        lines = self.content.split("\n")
        inner = [number for number, line in enumerate(lines) if _FENCE_LINE.match(line)]
        for number in inner[-_MAX_BLOCKS:]:
            yield "\n".join(lines[number + 1 :])
        fences = [number for number, line in enumerate(self.behind) if _FENCE_LINE.match(line)]
        for number in fences[1:_MAX_BLOCKS]:
            yield self.content + "\n".join(self.behind[:number]) + "\n"


def blocks(text: str, *, indented_code: bool) -> list[_Block]:
    lines = text.split("\n")
    tokens = [token for token in _markdown(indented_code).parse(text) if token.type == "fence" and token.map]
    found = []
    for token in tokens[-_MAX_BLOCKS:]:
        assert token.map is not None
        closing = token.map[1] - 1
        is_closed = closing > token.map[0] and _FENCE_LINE.match(lines[closing].lstrip("> \t")) is not None
        found.append(_Block(token.info, token.content, tuple(lines[closing:]) if is_closed else ()))
    return found


@cache
def _markdown(indented_code: bool) -> MarkdownIt:
    """CommonMark without HTML (<think> is no element) and without what stands inside paragraphs.

    Without indented code, a fence may be indented by any number of blanks.
    """
    parser = MarkdownIt("commonmark").disable(["html_block", "inline", "reference", "lheading"])
    return parser if indented_code else parser.disable("code")


def _completed(programs: Sequence[str], place: int) -> str:
    """Join a program with the blocks before and after it that bind names which it uses and does not bind."""
    chosen = parse(programs[place])
    if chosen is None:
        return programs[place]
    missing = global_names(chosen) - bound_names(chosen.body) - BUILTINS
    parts: list[str] = []
    for number, program in enumerate(programs):
        tree = parse(program) if missing and number != place else None
        if tree is None or not all(isinstance(node, DEFINITIONS) for node in tree.body):
            continue
        if names := bound_names(tree.body) & missing:
            parts.append(program.rstrip("\n") + "\n\n")
            missing -= names
    return "".join([*parts, programs[place]])


def without_thoughts(text: str) -> str:
    """Remove drafts in <think>..</think>, including one whose opening tag is in the prompt.

    A thought that never ends hides nothing: only its tag goes.
    """
    kept, begin, opened = "", 0, None
    for tag in _THOUGHT_TAG.finditer(text):
        if tag["opening"]:
            opened = opened or tag
        elif opened is not None:
            kept, begin, opened = kept + text[begin : opened.start()], tag.end(), None
        elif _CLOSES.match(text, tag.end()) and not _is_quoted(text, tag.start()):
            kept, begin = "", tag.end()
    if opened is not None:
        kept, begin = kept + text[begin : opened.start()], opened.end()
    return kept + text[begin:]


def _is_quoted(text: str, place: int) -> bool:
    line = text[text.rfind("\n", 0, place) + 1 : place]
    return "'" in line or '"' in line


def _is_a_word(node: ast.stmt) -> bool:
    """Whether a text that parses is prose or printed output: `Done`, `3`, `[1, 2]`."""
    return isinstance(node, ast.Expr) and not any(isinstance(each, ast.Call) for each in ast.walk(node))


def _reads_input(tree: ast.Module) -> bool:
    names = {each.id for each in ast.walk(tree) if isinstance(each, ast.Name)}
    attributes = {each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)}
    imported = {alias.name for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) for alias in each.names}
    return bool({"input", "open"} & names or "stdin" in attributes | imported)


def unix(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
