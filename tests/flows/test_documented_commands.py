"""What the documents tell a reader to type is typed, as far as it takes seconds and trains nothing.

Every documented launch and sweep is planned, as with --dry-run, over stand-ins for the models and data of its document:
a nano model and generated rows, lying where the words say. Starts no Ray.
"""

import gzip
import importlib.util
import json
import shutil
import socket
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.command_checks import LAUNCH_VERBS, in_place, launch_words
from tests.documents import DOCUMENTS, KOREAN, ROOT, commands_of, relative
from tests.flows.world import make_world
from wmtp_ray import cli
from wmtp_ray.cli.ends import DONE, REFUSED
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.flows.data.derived_files import write_derived
from wmtp_ray.flows.data.setup_datasets import Place, setup_humaneval, setup_list_tasks

NOW = datetime(2026, 1, 1)
STAND_INS = {
    "/DIR": "{storage}",
    "/storage": "{storage}",
    "$PWD": "{storage}/..",
    "DIR/tokenizer.json": "tokenizer.model",
    "model.path=DIR": "model.path=MODEL_DIR",
    "model.path=BASE": "model.path=MODEL_DIR",
}
FEWER_HEADS = "evaluation.draft_horizons=0"  # of the stand-ins
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
MBPP = {"task_id": 601, "text": "Return one.", "code": "def one():\n    return 1", "test_setup_code": ""}
MBPP |= {"test_list": ["assert one() == 1"], "challenge_test_list": []}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the documents' files lie: models, rows, downloads."""
    place = tmp_path_factory.mktemp("documented")
    storage = make_world(place / "storage")
    tasks = ListTasks(
        seed=2, num_train_problems=300, num_valid_problems=20, num_correct=3, num_incorrect=3, systematic_frac=0.7
    )
    rows = write_list_tasks(storage / "datasets_v2" / "codecontests" / "processed", tasks)
    shutil.copy(rows.train, storage / "datasets_local_small" / "codecontests_small.jsonl")
    for path in (rows.train, rows.valid, rows.train_problems, rows.valid_problems):
        shutil.copy(path, place)
    models = storage / "models_v2"
    model = models / "nano_mtp"
    for name in ("micro-mtp", "micro-ref", "ref-sheared-llama-2.7b"):
        shutil.copytree(model, models / name)
    shutil.copytree(model, place / "MODEL_DIR")
    write_derived(storage / "datasets_v2" / "codecontests", [rows.train], tokenizer=None, max_tokens=None)
    setup_list_tasks(storage / "datasets_local_small" / "list_tasks", lambda _: None)
    shutil.copy(model / "tokenizer.model", place)
    shutil.copytree(model, place / "7B_1T_4")
    torch.save(load_file(place / "7B_1T_4" / "model.safetensors"), place / "7B_1T_4" / "consolidated.pth")
    (place / "7B_1T_4" / "model.safetensors").unlink()
    (place / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(HUMANEVAL).encode()))
    humaneval = Place(str(place / "HumanEval.jsonl.gz"), "main", storage / "datasets_v2" / "humaneval")
    setup_humaneval(humaneval, NOW, lambda _: None)
    (place / "mbpp.jsonl").write_text(json.dumps(MBPP))
    return place


@pytest.fixture
def in_the_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder as the current one, after the guide's first command that makes something."""
    monkeypatch.chdir(place)
    if not (place / "storage" / "models_v2" / "meta-llama-mtp").exists():
        convert = ("policy", "--source", "7B_1T_4")
        assert typed(["python", "scripts/setup_models.py", *convert], monkeypatch) == DONE
    return place


def typed(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `wmtp ...` or `python scripts/...` in this process."""
    if words[0] == "wmtp":
        return cli.main(words[1:])
    spec = importlib.util.spec_from_file_location("typed_script", ROOT / words[1])
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("sys.argv", list(words[1:]))
    code: int = script.main()
    return code


def stood_in(words: Sequence[str], place: Path) -> list[str]:
    """Put stand-ins for what only the reader has, a recipe where a sweep, a critic where a run would have left one."""
    found = [in_place(word, place) for word in words]
    for there, here in STAND_INS.items():
        here = here.format(storage=place / "storage")
        found = [word.replace(there, here) if f"={there}" in word or word == there else word for word in found]
    for word in found:
        if word.startswith("critic.path="):
            (place / word.removeprefix("critic.path=")).mkdir(parents=True, exist_ok=True)
    return found


def planned(path: Path) -> list[list[str]]:
    """The words of every launch and sweep of a document, each once and without the flags that a plan does not need."""
    commands = [command.words for command in commands_of(path)]
    launches = [words for words in map(launch_words, commands) if words is not None]
    launches += [list(words[2:]) for words in commands if words[0] == "wmtp" and words[1] in LAUNCH_VERBS]
    plain = dict.fromkeys(tuple(word for word in words if word not in ("--dry-run", "--resume")) for words in launches)
    return [list(words) for words in plain]


def test_the_conversions_and_checks_of_the_guide_do_what_it_says(in_the_place, monkeypatch, capsys):
    commands = [command.words for command in commands_of(ROOT / "docs" / "guide.md")]
    policy = [words for words in commands if words[1:3] == ("scripts/setup_models.py", "policy")]
    assert [typed(words, monkeypatch) for words in policy] == [DONE] * 2
    assert "nothing to do" in capsys.readouterr().out
    data = {words[2]: words for words in commands if words[:2] == ("wmtp", "data")}
    assert typed(data["index"], monkeypatch) == DONE
    assert typed(data["inspect"], monkeypatch) == DONE
    assert "difficulty" in capsys.readouterr().out
    assert typed(data["validate"], monkeypatch) == DONE, capsys.readouterr().out
    stand_in = in_the_place / "storage" / "datasets_local_small" / "codecontests_small.jsonl"
    stand_in.unlink()
    assert typed(data["sample"], monkeypatch) == DONE
    assert stand_in.is_file()
    [doctor] = [words for words in commands if words[:2] == ("wmtp", "doctor")]
    assert typed(doctor, monkeypatch) in (DONE, REFUSED)  # of this machine it may find anything
    said = capsys.readouterr().out
    assert "all present" in said
    assert "readable, and made for each other" in said


def test_the_readmes_own_data_is_indexed_inspected_and_validated(in_the_place, monkeypatch, capsys):
    commands = [command.words for command in commands_of(ROOT / "README.md")]
    data = [words for words in commands if words[:2] == ("wmtp", "data")]
    assert [words[2] for words in data] == ["index", "inspect", "validate"]
    assert [typed(words, monkeypatch) for words in data] == [DONE] * 3, capsys.readouterr().out


@pytest.fixture
def a_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody listens at RAY_ADDRESS: what a preset asks for is a matter of the cluster, not of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        yield


PLANNED = [path for path in DOCUMENTS if path != KOREAN and planned(path)]  # the Korean one has the README's commands


@pytest.mark.parametrize("path", PLANNED, ids=relative)
def test_every_documented_training_can_be_planned(path, in_the_place, a_cluster, capsys):
    refused = []
    for words in (stood_in(words, in_the_place) for words in planned(path)):
        if cli.main(["launch", *words, FEWER_HEADS, "--dry-run"], now=NOW) != DONE:
            refused.append(f"{' '.join(words)}\n    {capsys.readouterr().err}")
    assert not refused, "\n".join(refused)


def test_every_verb_explains_itself(capsys):
    for words in (
        ["--help"],
        ["data", "--help"],
        ["evaluate", "--help"],
        ["data", "validate", "--help"],
        ["launch", "-h"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Pass@K" in shown
    assert "--dry-run" in shown
