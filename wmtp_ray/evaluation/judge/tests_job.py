"""The tests' side of a check, prepared by the judge: compiled once, however many programs are judged by it.

Tests come from benchmarks and are compiled here, in the judge's own process; programs never are.
"""

import marshal
import sys
from functools import lru_cache
from types import CodeType
from typing import Any

from wmtp_ray.evaluation.judge.verdict import BrokenTestsError

_CACHED_JOBS = 256
# What tests put in place of the standard streams: those of their own process, not the program's.
_STREAMS = {"redirect_stdout", "redirect_stderr", "stdout", "stdin", "patch"}


class _ManyDigitsError(Exception):
    """The tests hold a number of more digits than this process converts (sys.set_int_max_str_digits)."""


@lru_cache(maxsize=_CACHED_JOBS)
def prepare_tests(sections: tuple[str, ...], entry_point: str | None, *, call_check: bool) -> bytes:
    """Return what `test_side.run_tests` reads. Raises BrokenTestsError for tests that do not compile.

    `sections` are run in order, in one namespace; `call_check` calls their check(candidate) afterwards.
    """
    job: dict[str, Any] = {"sections": sections, "entry_point": entry_point, "call_check": call_check}
    try:
        job["compiled"] = compile_tests(sections)
    except _ManyDigitsError:
        job["compiled"] = None  # the tests' own process converts numbers of any length; this one may not
    return marshal.dumps(job)


def compile_tests(sections: tuple[str, ...]) -> dict[str, Any]:
    """Return sources and codes by file name, and the names that they expect of the program."""
    sources = {f"<tests {number}>": source for number, source in enumerate(sections)}
    codes = [_compile(source, name) for name, source in sources.items()]
    names = sorted(free_names(sections))
    used = set().union(*map(_names_in, codes))
    return {
        "sources": sources,
        "codes": codes,
        "names": names,
        "module_attributes": module_attributes(sections, names),
        "streams": sorted(used & _STREAMS),
        "seeds": used >= {"random", "seed"},
    }


def module_attributes(sections: tuple[str, ...], names: list[str]) -> dict[str, list[str]]:
    """Return which attributes sources use of those names that are a module's.

    (("assert math.isclose(f(x), x)",), ["f", "math", "x"]) -> {"math": ["isclose"]}
    """
    import ast  # not above: the zygote holds this module too, and the less it holds, the faster it forks

    found: dict[str, list[str]] = {}
    modules = {name for name in names if name in sys.stdlib_module_names or name in ("np", "numpy")}
    for node in ast.walk(ast.parse("\n".join(sections))) if modules else ():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found.setdefault(node.value.id, []).append(node.attr)
    return found


def free_names(sections: tuple[str, ...]) -> set[str]:
    """Return the global names that sources use and none of them defines.

    "def check(f): assert f(1) == helper(limit)" -> {"helper", "limit"}
    """
    import symtable

    used: set[str] = set()
    defined: set[str] = set()
    for source in sections:
        top = symtable.symtable(source, "<tests>", "exec")
        for symbol in top.get_symbols():
            bound = symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
            (defined if bound else used).add(symbol.get_name())
        pending = list(top.get_children())
        while pending:
            table = pending.pop()
            pending += table.get_children()
            used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return used - defined


def _names_in(code: CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def _compile(source: str, name: str) -> CodeType:
    try:
        code: CodeType = compile(source, name, "exec", dont_inherit=True, optimize=0)  # asserts stay, whatever -O says
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if "integer string conversion" in str(error):
            raise _ManyDigitsError from None
        raise BrokenTestsError(f"the tests do not compile: {error}") from None
    return code
