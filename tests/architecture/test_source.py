"""The size and the documentation of the source, and what the documents say about it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MODULES = sorted(path for package in ("wmtp_ray", "actors") for path in (ROOT / package).rglob("*.py"))
DOCUMENTED = [path for path in MODULES if path.name != "__init__.py" or path.stat().st_size > 0]
RUN_FILES = {"config.yaml"}  # of a run, not of the tree


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def names_in(document: str) -> set[str]:
    """Files and folders that a document names in backticks: `plan/packing.py`, `flows/`, `x.py::name`."""
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL))
    names = {name.partition("::")[0] for name in quoted}
    return {name for name in names if re.fullmatch(r"[\w.*/-]+(\.(py|yaml|toml|md)|/)", name)} - RUN_FILES


def exists_in_tree(name: str) -> bool:
    """Names count from the top, from the package or from `configs/`; `recipe.*.yaml` means that there is one."""
    return any(any(base.glob(name.rstrip("/"))) for base in (ROOT, ROOT / "wmtp_ray", ROOT / "configs"))


def test_no_module_passes_its_length():
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


def test_no_function_passes_its_length():
    lengths = {
        f"{relative(path)}::{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in MODULES
        for node in functions_of(path)
    }
    assert len(lengths) > 300, "the functions were not found"
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def renames_and_syncs(path: Path) -> list[str]:
    """Calls that put a file in another's place or bring it to the disk: `os.replace`, `path.rename`, `os.fsync`, ..."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    attributes = [(call.func.attr, call) for call in calls if isinstance(call.func, ast.Attribute)]
    return [
        name
        for name, call in attributes
        if name in ("fsync", "fdatasync", "renames", "mkstemp", "NamedTemporaryFile")
        or (name in ("rename", "move") and call.args)
        # One argument: `Path.replace`; two: that of `str`, or `os.replace`.
        or (name == "replace" and not call.keywords and (len(call.args) == 1 or ast.unparse(call.func) == "os.replace"))
    ]


def test_one_module_renames_into_place_and_syncs():
    found = {relative(path): calls for path in MODULES if (calls := renames_and_syncs(path))}
    assert set(found.pop("wmtp_ray/durable_files.py")) == {"fsync", "rename", "replace"}
    # The ranks' shards, written before the checkpoint's own temporary directory exists, move into it.
    assert found.pop("wmtp_ray/training/checkpoint.py") == ["rename"]
    assert found == {}


def test_one_module_sums_the_resources_of_a_run():
    """Elsewhere a share goes to one actor as it is; nobody multiplies or adds shares."""
    shares = {
        f"{name}_per_{actor}"
        for name in ("cpus", "gpus")
        for actor in ("worker", "critic", "decoder", "judge", "evaluator")
    }
    summing = {
        relative(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult)
        for operand in (node.left, node.right)
        if isinstance(operand, ast.Attribute) and operand.attr in shares
    }
    assert summing == {"wmtp_ray/preflight/needed_resources.py"}


def test_one_module_prints_tables():
    """Columns are padded by `text_tables.table`; an overview draws its bars to one width before they are cells."""
    padding = {
        relative(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("ljust", "rjust")
    }
    assert padding == {"wmtp_ray/text_tables.py", "wmtp_ray/data/overview_text.py"}
    others = ("rich.table", "tabulate", "prettytable")
    assert [relative(path) for path in MODULES if any(name in path.read_text("utf-8") for name in others)] == []


# Files that read JSON and are no record of ours; every record goes through `saved_records.py`.
READS_JSON_OF_OTHERS = {
    "wmtp_ray/evaluation/judge/control.py": "messages between the judge's processes, which import nothing of ours",
    "wmtp_ray/evaluation/judge/isolation.py": "likewise",
    "wmtp_ray/evaluation/judge/outcome.py": "likewise",
    "wmtp_ray/data/records.py": "rows of a training file",
    "wmtp_ray/data/json_lines.py": "rows of benchmarks, anybody's",
    "wmtp_ray/data/legacy_metadata.py": "labels beside a training file",
    "wmtp_ray/data/repeated_heads.py": "parts of a row",
    "wmtp_ray/data/sample_data.py": "a row, to be written again with all that it holds",
    "wmtp_ray/data/index_file.py": "a list inside the metadata of a Parquet file",
    "wmtp_ray/data/validation/checksums.py": "manifests of any tool, of which it looks for a hash",
    "wmtp_ray/data/tokenizer_settings.py": "tokenizer_config.json and the like",
    "wmtp_ray/artifacts/hf/export_tokenizer.py": "tokenizer.json",
    "wmtp_ray/artifacts/hf/custom_generate/generate.py": "mtp_heads.json, in an export, with nothing of ours",
    "wmtp_ray/model/json_object.py": "params.json and what lies beside it in a model directory",
    "wmtp_ray/flows/data/convert_parts.py": "messages of Ray Data's tasks",
    "actors/row_converter.py": "likewise",
}


def reads_json(path: Path) -> bool:
    """Whether a file calls `json.loads`, `json.load`, `orjson.loads`, `msgspec.json.decode`, or makes a decoder."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    readers = {"json.load", "json.loads", "orjson.loads", "msgspec.json.decode", "msgspec.json.Decoder"}
    return any(ast.unparse(call.func) in readers for call in calls)


def test_every_record_is_read_by_one_module():
    found = {relative(path) for path in MODULES if reads_json(path)}
    assert "wmtp_ray/saved_records.py" in found
    assert found - {"wmtp_ray/saved_records.py"} - READS_JSON_OF_OTHERS.keys() == set()
    assert READS_JSON_OF_OTHERS.keys() - found == set(), "left in the list though they read no JSON any more"


def test_every_module_says_what_it_is():
    silent = [relative(path) for path in DOCUMENTED if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert silent == []


def test_the_names_of_a_document_are_found():
    text = "See `plan/packing.py` and `flows/`, `run.py::main`, not `loss/policy`.\n```\n`absent.py`\n```\n"
    assert names_in(text) == {"plan/packing.py", "flows/", "run.py"}
    assert exists_in_tree("plan/packing.py")
    assert exists_in_tree("recipe.*.yaml")
    assert not exists_in_tree("plan/absent.py")


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_file_that_a_document_names_exists(document):
    path = ROOT / document
    if not path.exists():
        pytest.skip(f"there is no {document} yet")
    absent = sorted(name for name in names_in(path.read_text(encoding="utf-8")) if not exists_in_tree(name))
    assert absent == []
