"""The loop of docs/export_weights.md, run as it stands: its losses are those of our own training, step by step."""

import re
from datetime import datetime
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.documents import ROOT
from tests.flows.world import make_world
from wmtp_ray import cli
from wmtp_ray.artifacts.meta_checkpoint import load_policy, save_policy
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.collate import collate
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.trained_rows import TrainedRows
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.plan.run_plan import load_plan, plan_training, save
from wmtp_ray.ranks import OneRank
from wmtp_ray.run_folder import TRAIN_STAGE
from wmtp_ray.scoring.scorers import build_scorer
from wmtp_ray.training.losses import Denominators, PolicyLoss
from wmtp_ray.training.row_scores import RowScores, values_of_policy

pytest.importorskip("transformers")

PAGE = ROOT / "docs" / "export_weights.md"
NOW = datetime(2026, 1, 1)
WORDS = (
    "recipe=verifiable",
    "preset=quickstart",
    "weighting.beta=0.3",
    "train.max_steps=4",
    "train.batch_rows=6",
    "train.value_coef=0",
    "loss.horizon_coefs=[2,0]",  # the mean over two horizons is then horizon 1's loss
)


def loop_of_the_page() -> str:
    """The page's first block of Python."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run whose stage 1 has left a critic and whose stage 2 is planned."""
    storage = make_world(tmp_path / "storage")
    config = load_config(parse_arguments([*WORDS, "run_name=NAME", f"storage_root={storage}"]), now=NOW)
    ensure_index(config.data.train_file, CodeTokenizer(config.tokenizer.path), on_error="fail")
    config.run_dir.mkdir(parents=True)
    config.folder.config.write_text(dump_config(config))
    rows = TrainedRows.of_stage(config, TRAIN_STAGE)
    save(plan_training(rows.index, config.data, config.train, config.seed), config.run_dir)
    critic = load_policy(config.model.path, spec=ValueSpec.of(config))
    with torch.no_grad():
        for parameter in critic.value_head.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    save_policy(config.folder.critic.final, critic)
    return config


def own_losses(config: RunConfig) -> list[float]:
    """The weighted losses of horizon 1 by our fused loss, each after the same optimizer's steps before it."""
    policy = load_policy(config.model.path, spec=ValueSpec.of(config))
    fixed = load_policy(config.model.path, spec=ValueSpec.of(config))
    for each in (policy, fixed):
        each.value_head.load_state_dict(load_policy(config.folder.critic.final).value_head.state_dict())
    scores = RowScores(torch.device("cpu"), values_of=values_of_policy(PolicyLoss(fixed, config, 2)))
    optimizer = torch.optim.AdamW(policy.transformer.parameters(), lr=1e-4, weight_decay=0.0)
    return [_step(config, policy, scores, optimizer, step) for step in range(4)]


def _step(config: RunConfig, policy: Policy, scores: RowScores, optimizer: torch.optim.Optimizer, step: int) -> float:
    row_ids = load_plan(config.run_dir, TRAIN_STAGE).step_row_ids(step)
    examples = TrainedRows.of_stage(config, TRAIN_STAGE).read(row_ids, CodeTokenizer(config.tokenizer.path))
    batch = collate(examples, step=step, micro_step=0)
    micro = scores.micro_batch(batch, step=step, seed=config.seed, with_policy_losses=False)
    weights = build_scorer(config, 2).weigh([micro], OneRank())
    denominators = Denominators(weights.denominators_H, weights.denominators_H, 1.0, 1.0)
    loss = PolicyLoss(policy, config, 2)(micro, weights.pair_weights_BTH[0], denominators)
    loss.total.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.parts["loss/policy"])


def test_the_loop_of_the_page_reproduces_our_losses(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(config.model.path)
    assert cli.main(["export", model, "--format", "hf", "--out", "exported/NAME"], now=NOW) == 0
    assert cli.main(["export-weights", str(config.run_dir), "--out", "weights/NAME"], now=NOW) == 0
    page: dict[str, object] = {}
    code = loop_of_the_page()
    assert len(code.splitlines()) <= 22
    exec(compile(code, str(PAGE), "exec"), page)
    losses = page["losses"]
    assert isinstance(losses, list)
    expected = own_losses(config)
    assert len(set(expected)) == 4
    assert losses == pytest.approx(expected, abs=1e-5)


def test_a_file_that_is_planned_has_the_weights_of_the_run_that_is_planned_over_it(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words of the run, the file and the critic of its stage 1; no run's folder is made."""
    runs = sorted(path.name for path in config.run_dir.parent.iterdir())
    words = [*WORDS, f"critic.path={config.folder.critic.final}", f"storage_root={config.storage_root}"]
    file, run = str(config.data.train_file), str(config.run_dir)
    assert cli.main(["export-weights", file, words[0], "--out", str(tmp_path / "file"), *words[1:]], now=NOW) == 0
    assert cli.main(["export-weights", run, "--out", str(tmp_path / "run"), "--limit", "9"], now=NOW) == 0
    of_file, of_run = (pq.read_table(tmp_path / each / "weights.parquet").to_pylist() for each in ("file", "run"))
    assert len(of_run) == 9
    assert of_file[:9] == of_run
    assert [len(list(rows)) for _, rows in groupby(of_file, key=lambda row: row["step"])] == [6, 6, 6, 6]
    assert sorted(path.name for path in config.run_dir.parent.iterdir()) == runs
    assert "steps 0 to 1, the last one not with all of its rows" in capsys.readouterr().out


def test_a_run_takes_no_words_and_a_file_needs_a_trained_critic(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["export-weights", str(config.run_dir), "weighting.beta=1", *out], now=NOW) == 2
    assert "expected no settings: a run has its own" in capsys.readouterr().err
    words = [*WORDS, f"storage_root={config.storage_root}"]
    assert cli.main(["export-weights", str(config.data.train_file), *words, *out], now=NOW) == 2
    assert "give critic.path=DIR" in capsys.readouterr().err
    assert cli.main(["export-weights", str(tmp_path / "nothing"), *out], now=NOW) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
