"""The commands under `scripts/` as they are typed: what they write, say and return. Their parts have tests too."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.artifacts.hf.config_file import config_from_params
from wmtp_ray.artifacts.hf.layout import hf_name, to_hf_rows
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.cli import main
from wmtp_ray.config.load import load_config, parse_arguments

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
MAX_LINES = 60
MODEL = {"configs/params.json", "configs/meta_adapter.yaml", "safetensors/model.safetensors"}
MODEL |= {"tokenizer/tokenizer.model", "tokenizer/tokenizer_config.json"}
OUTCOME = {"meta-llama-mtp": MODEL, "ref-sheared-llama-2.7b": MODEL | {"configs/config.json"}}
OUTCOME |= {"starling-rm-7b": set(), "micro-mtp": MODEL}
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a script's main in this process, with the current directory at tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: object) -> int:
        spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        code: int = module.main()
        return code

    return run


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(["print(int(input()) + 1)\n", "### Instruction:\nSolve p.\n"] * 9, path, 300)
    return path


def write_metas(directory: Path, tokenizer: Path) -> None:
    directory.mkdir()
    args = {"dim": 16, "n_layers": 4, "n_heads": 2, "vocab_size": 300, "n_future_tokens": 2, "multiple_of": 8}
    torch.save(Transformer(ModelArgs(**args)).state_dict(), directory / "consolidated.pth")
    (directory / "params.json").write_text(json.dumps(args))
    shutil.copy(tokenizer, directory)


def write_hugging_faces(directory: Path, tokenizer: Path) -> None:
    directory.mkdir()
    model = Transformer(ModelArgs(dim=16, n_layers=2, n_heads=2, vocab_size=300, multiple_of=8))
    state = {hf_name(name): to_hf_rows(name, t, model.args).contiguous() for name, t in model.state_dict().items()}
    torch.save(state, directory / "pytorch_model.bin")
    (directory / "config.json").write_text(json.dumps(config_from_params(model.args, tied=False, max_positions=9)))
    shutil.copy(tokenizer, directory)


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_thin(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_models_are_set_up_cut_and_sent_with_the_commands_of_the_guide(run, tmp_path, tokenizer, capsys):
    write_metas(tmp_path / "7B_1T_4", tokenizer)
    write_hugging_faces(tmp_path / "rho-1b", tokenizer)
    models = Path("storage/models_v2")
    policy = ("policy", "--source", "7B_1T_4")
    assert run("setup_models", *policy, "--dry-run") == 0
    assert not models.exists()
    assert run("setup_models", *policy) == 0
    assert run("setup_models", *policy) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run("setup_models", "reference", "--source", "rho-1b") == 0
    assert run("setup_models", "reward") == 0
    assert run("setup_models", "policy", "--source", "7B_1T_4", "--out", models / "ref-sheared-llama-2.7b") == 2
    assert "another model (reference rho-1b)" in capsys.readouterr().err
    sizes = ("--dim", 8, "--heads", 1, "--layers", 3)
    assert run("prepare_local_small_model", "--base", models / "meta-llama-mtp", *sizes) == 0
    assert run("prepare_local_small_model", "--tokenizer", tokenizer, "--out", models / "random", *sizes) == 2
    assert "n_future_tokens 4 is not in 1..n_layers (3)" in capsys.readouterr().err
    assert run("sync_to_vessl_storage", "--to", "mounted", "--folders", "models_v2", "--dry-run") == 0
    assert not Path("mounted").exists()
    assert run("sync_to_vessl_storage", "--to", "mounted") == 0
    assert "0 there already" in capsys.readouterr().out
    sent = {path.relative_to("mounted") for path in Path("mounted").rglob("*") if path.name != "SHA256SUMS"}
    assert sent == {path.relative_to("storage") for path in Path("storage").rglob("*")}
    assert {path.name for path in models.iterdir()} == OUTCOME.keys()
    for name, files in OUTCOME.items():
        found = {path.relative_to(models / name).as_posix() for path in (models / name).rglob("*") if path.is_file()}
        assert found == files | {"metadata.json"}
    records = {name: json.loads((models / name / "metadata.json").read_bytes()) for name in OUTCOME}
    shared_with = records["ref-sheared-llama-2.7b"]["tokenizer_shared_with"]
    assert shared_with["model"] == "../meta-llama-mtp"
    assert (records["starling-rm-7b"]["status"], records["micro-mtp"]["target_device"]) == ("optional", "cpu")
    config = load_config(parse_arguments(["recipe=rho1_weighted"]), now=datetime(2026, 1, 1))
    paths = (config.model.path, config.tokenizer.path, config.reference.path)
    assert paths == tuple(
        models.absolute() / name
        for name in ("meta-llama-mtp", "meta-llama-mtp/tokenizer/tokenizer.model", "ref-sheared-llama-2.7b")
    )


def test_a_policy_whose_tokenizer_lies_elsewhere_is_set_up_without_one(run, tmp_path, tokenizer, capsys):
    write_metas(tmp_path / "7B_1T_4", tokenizer)
    (tmp_path / "7B_1T_4" / "tokenizer.model").unlink()
    words = ("policy", "--source", "7B_1T_4", "--out", "policy")
    assert run("setup_models", *words) == 2
    assert "tokenizer.model" in capsys.readouterr().err
    assert run("setup_models", *words, "--no-tokenizer") == 0
    assert {path.relative_to("policy").as_posix() for path in Path("policy").rglob("*.*")} == {
        *("configs/params.json", "safetensors/model.safetensors", "configs/meta_adapter.yaml", "metadata.json")
    }


def test_a_newcomers_rows_and_model_lie_where_the_local_presets_look(run, tmp_path, capsys):
    assert run("setup_datasets", "list_tasks") == 0
    rows = tmp_path / "storage" / "datasets_local_small" / "list_tasks"
    sizes = ("--dim", 16, "--heads", 1, "--layers", 5)
    assert run("prepare_local_small_model", "--rows", rows / "train.jsonl", *sizes) == 0
    reference = ("--out", "storage/models_v2/micro-ref", "--seed", 1)
    assert run("prepare_local_small_model", "--rows", rows / "train.jsonl", *sizes, *reference) == 0
    capsys.readouterr()
    assert run("prepare_local_small_model", "--rows", rows / "train.jsonl", *sizes) == 0
    assert "nothing to do" in capsys.readouterr().out
    for recipe, preset, steps in (("verifiable", "local-light", 10), ("verifiable", "local", 100)):
        assert main(["launch", f"recipe={recipe}", f"preset={preset}", "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert f"steps       {steps} of " in said
        assert ("Plan of stage 2" in said) == (preset == "local")
        assert ("list_tasks: 20 problems" in said) == (preset == "local")
    rho1 = ["recipe=rho1_weighted", "preset=local", "--use-micro-model", "--dataset-suffix", "small", "--dry-run"]
    assert main(["launch", *rho1]) == 0
    assert "train_small.jsonl, 100 rows" in capsys.readouterr().out


def test_list_problems_of_a_regime_are_written_with_its_manifest_and_statistics(run, tmp_path, capsys):
    numbers = ("--num-train-problems", 40, "--num-valid-problems", 5, "--num-correct", 2, "--num-incorrect", 4)
    words = ("list_tasks", "--out", "tasks", "--seed", 3, *numbers)
    for frac, kept, rows in ((1.0, 40, 240), (0.125, 5, 170)):
        assert run("setup_datasets", *words, "--correct-problems-frac", frac, "--systematic-frac", 0.5) == 0
        assert f"train.jsonl: {rows} rows" in capsys.readouterr().out
        manifest = json.loads((tmp_path / "tasks" / "manifest.json").read_bytes())
        assert manifest["config"] == {
            "seed": 3,
            "num_train_problems": 40,
            "num_valid_problems": 5,
            "num_correct": 2,
            "num_incorrect": 4,
            "systematic_frac": 0.5,
            "correct_problems_frac": frac,
            "held_out_operations": 0,
        }
        classes = json.loads((tmp_path / "tasks" / "stats" / "train.json").read_bytes())["problem_classes"]
        assert classes == {
            "both": {"num_problems": kept, "num_rows": 6 * kept},
            "only_correct": {"num_problems": 0, "num_rows": 0},
            "only_incorrect": {"num_problems": 40 - kept, "num_rows": 4 * (40 - kept)},
        }
    assert run("setup_datasets", *words, "--correct-problems-frac", 1.5) == 2
    assert "correct_problems_frac is 1.5, expected 0 to 1" in capsys.readouterr().err
    assert run("setup_datasets", *words, "--num-valid-problems", 0) == 2
    assert "num_valid_problems is 0, expected 1 or more" in capsys.readouterr().err


def test_a_tokenizer_is_trained_on_rows_alone(run, tmp_path, capsys):
    assert run("prepare_local_small_model", "--rows", tmp_path / "none.jsonl") == 2
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert run("prepare_local_small_model", "--rows", tmp_path / "rows.jsonl") == 2
    assert "rows.jsonl:1: found no key" in capsys.readouterr().err
    assert not (tmp_path / "storage").exists()


def test_a_micro_model_needs_a_base_or_a_tokenizer(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run("prepare_local_small_model", "--out", "micro")
    assert caught.value.code == 2
    assert "give --base DIR to cut from, or --tokenizer FILE" in capsys.readouterr().err


def test_a_volume_is_sent_to_without_being_asked_in_a_dry_run(run, tmp_path, capsys):
    (tmp_path / "storage" / "runs").mkdir(parents=True)
    (tmp_path / "storage" / "runs" / "result.json").write_text("{}")
    assert run("sync_to_vessl_storage", "--to", "volume://team/wmtp", "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"vessl storage copy-file {tmp_path}/storage/runs/result.json volume://team/wmtp/runs" in said
    assert "1 files to send" in said
    assert run("sync_to_vessl_storage", "--to", "volume://team", "--dry-run") == 2


def test_data_sets_are_validated_split_by_split(run, tmp_path, capsys):
    def write(name: str, task: str, **changes: object) -> None:
        row = {"instruction": f"Solve {task}.", "input": "", "output": f"print({task!r})", "task_id": task}
        row |= {"is_correct": True, "metadata": {"source": "generated", "difficulty": 1, "has_tests": True}}
        path = tmp_path / "data" / "processed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row | changes) + "\n")

    write("train.jsonl", "p_correct_0")
    write("valid.jsonl", "q_correct_0")
    write("valid_problems.jsonl", "q_correct_0", is_correct="no row at all")
    assert run("validate_datasets", "data") == 0
    write("train_small.jsonl", "p_correct_0")
    assert run("validate_datasets", "data") == 0, "copies of rows of train"
    assert run("validate_datasets", "data", "--dataset-suffix", "small") == 0
    small_alone = capsys.readouterr().out.rpartition("Files\n")[2]
    assert "train_small.jsonl" in small_alone
    assert "valid.jsonl" not in small_alone
    write("valid.jsonl", "p_correct_1")
    assert run("validate_datasets", "data") == 2
    assert "valid.jsonl" in capsys.readouterr().out
    assert run("validate_datasets", tmp_path) == 2
    assert "holds no rows" in capsys.readouterr().err


def test_an_export_from_mlflow_needs_its_store(run, capsys):
    assert run("export_mlflow_artifacts", "a run", "--out", "exported") == 2
    assert "mlflow.db does not exist" in capsys.readouterr().err
