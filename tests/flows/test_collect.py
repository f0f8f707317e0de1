"""`wmtp collect` with several decoders on Ray gives the rows of one process, also after a change of their number."""

from pathlib import Path

import pytest

from tests.unit.evaluation.collecting.nano_world import command, rows_of
from wmtp_ray.cli import main as wmtp
from wmtp_ray.config.schema import ClusterConfig
from wmtp_ray.evaluation.collecting.collection_manifest import answers_of, manifest_of
from wmtp_ray.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_rows_are_the_same_for_any_number_of_decoders(world: Path, cluster: ClusterConfig, tmp_path: Path) -> None:
    """One process; two decoders and two judges; and two decoders that go on where one process has begun."""
    more = ["--limit=5", "--num-samples=3", "--until-both=1", "--max-samples=6", "--max-new-tokens=12"]
    one, two, both = (tmp_path / name for name in ("one.jsonl", "two.jsonl", "both.jsonl"))
    on_ray = ["--decoders=2", "--workers=2", "--batch-size=2", f"cluster.num_cpus={cluster.num_cpus}"]
    assert wmtp(command(world, one, *more, "--workers=1")) == 0
    assert len(rows_of(one)) > 5
    assert wmtp(command(world, two, *more, *on_ray)) == 0
    assert two.read_bytes() == one.read_bytes()
    assert manifest_of(two).read_bytes() == manifest_of(one).read_bytes()
    assert "decoder_1" in RunFolder(answers_of(two)).places.read_text(), "there were two"
    assert not RunFolder(answers_of(one)).places.exists(), "one decoder starts no Ray"

    assert wmtp(command(world, both, *more, "--limit=2")) == 0
    verdicts = answers_of(both) / "verdicts.jsonl"
    begun = verdicts.read_bytes().splitlines()
    assert wmtp(command(world, both, *more, *on_ray)) == 0
    assert set(begun) <= set(verdicts.read_bytes().splitlines())
    assert both.read_bytes() == one.read_bytes()
