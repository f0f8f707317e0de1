"""A large file is counted through Ray: as in one process, from where a killed pass stopped, a bad row in our words.

The launch that is killed starts a Ray of its own with one CPU, so that ranges are counted one after the other and the
kill falls between two of them on any machine.
"""

import subprocess
import sys
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

from tests.flows.world import command_line, kill_family, wait_until
from wmtp_ray.config.schema import ClusterConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index import BuiltIndex, build_index, count_tokens, load_index
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import DataError
from wmtp_ray.flows.data.build_index import index_file
from wmtp_ray.flows.data.count_tokens import PARALLEL_ROWS, RANGE_ROWS, ensure_counted_index, write_counted

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

NUM_RANGES = 4


@pytest.fixture(scope="module")
def large(world: Path) -> Path:
    """Three whole ranges and a short one, of the world's rows over and over."""
    lines = (world / "datasets_local_small" / "list_tasks" / "train.jsonl").read_bytes().splitlines(keepends=True)
    path = world / "large.jsonl"
    path.write_bytes(b"".join(islice(cycle(lines), RANGE_ROWS * (NUM_RANGES - 1) + 17)))
    return path


@pytest.fixture(scope="module")
def tokenizer(world: Path) -> CodeTokenizer:
    return CodeTokenizer(world / "models_v2" / "nano_mtp" / "tokenizer.model")


@pytest.fixture(scope="module")
def built(large: Path) -> BuiltIndex:
    return build_index(large, on_error="fail")


@pytest.fixture(scope="module")
def counted_here(built: BuiltIndex, tokenizer: CodeTokenizer) -> RowIndex:
    assert len(built.index) > PARALLEL_ROWS
    return count_tokens(built.index, tokenizer)


def counts_of(index: RowIndex) -> np.ndarray:
    return np.stack([index.prompt_tokens_R, index.response_tokens_R])


def test_a_killed_pass_goes_on_where_it_was(
    world: Path, large: Path, tokenizer: CodeTokenizer, counted_here: RowIndex, cluster: ClusterConfig
) -> None:
    """A dry run is killed once it has counted a part; a part that it finished is then given other counts, to be
    recognised in the index; another is torn; and one more belongs to another tokenizer."""
    out = large.with_name("large.jsonl.index.parquet")
    folder = out.with_name("large.jsonl.index.parquet.counting")
    _kill_dry_run(world, large, folder)
    first, *more = sorted(folder.glob("[0-9a-f]*.npy"))
    assert len(more) < NUM_RANGES - 1, "the pass was over before it was killed"
    expected = counts_of(counted_here)
    np.testing.assert_array_equal(np.load(first), expected[:, :RANGE_ROWS])
    key = first.name.partition("-")[0]
    np.save(first, np.full((2, RANGE_ROWS), 7, np.int32))
    (folder / f"{key}-{RANGE_ROWS:09d}-{2 * RANGE_ROWS:09d}.npy").write_bytes(b"\x93NUMPY")
    (folder / first.name.replace(key, "0" * 16)).write_bytes(first.read_bytes())
    said = index_file(large, tokenizer.model_path, None, "fail")
    expected[:, :RANGE_ROWS] = 7
    index = load_index(large)
    np.testing.assert_array_equal(counts_of(index), expected)
    assert index.tokenizer_hash == tokenizer.sha256
    assert f"{len(index):,} rows" in said
    assert not folder.exists()


def test_a_bad_row_is_our_error_and_the_counts_are_those_of_one_process(
    large: Path,
    tmp_path: Path,
    built: BuiltIndex,
    tokenizer: CodeTokenizer,
    counted_here: RowIndex,
    cluster: ClusterConfig,
) -> None:
    out = tmp_path / "large.jsonl.index.parquet"
    shorter_R = built.index.num_bytes_R.copy()
    shorter_R[-1] -= 1
    with pytest.raises(DataError, match="the line goes on after its"):
        write_counted(
            replace(built, index=replace(built.index, num_bytes_R=shorter_R)), tokenizer, out, cluster.num_cpus
        )
    mended = write_counted(built, tokenizer, out, cluster.num_cpus)
    np.testing.assert_array_equal(counts_of(mended.index), counts_of(counted_here))
    loaded = ensure_counted_index(large, tokenizer, on_error="fail", index_path=tmp_path, num_cpus=cluster.num_cpus)
    np.testing.assert_array_equal(counts_of(loaded), counts_of(counted_here))
    assert list(tmp_path.iterdir()) == [out]


def test_lines_left_out_are_refused_as_ever(world: Path, tokenizer: CodeTokenizer, cluster: ClusterConfig) -> None:
    path = world / "torn.jsonl"
    whole = (world / "datasets_local_small" / "list_tasks" / "train.jsonl").read_bytes()
    path.write_bytes(whole + b'{"instruction": "\n')
    index = ensure_counted_index(path, tokenizer, on_error="skip", index_path=None, num_cpus=cluster.num_cpus)
    assert len(index) == len(whole.splitlines())
    with pytest.raises(DataError, match="found 1 malformed lines"):
        ensure_counted_index(path, tokenizer, on_error="fail", index_path=None, num_cpus=cluster.num_cpus)


def _kill_dry_run(world: Path, large: Path, folder: Path) -> None:
    """Kill the driver without warning once it has written a part, then what is left of its Ray."""
    words = command_line(world, "counted", f"data.train_file={large}", "cluster.num_cpus=1")
    driver = subprocess.Popen(
        [sys.executable, "-m", "wmtp_ray.launch", *words, "--dry-run"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    wait_until(lambda: any(folder.glob("[0-9a-f]*.npy")) or driver.poll() is not None, "the first part")
    assert driver.poll() is None, driver.communicate()[0]
    kill_family(driver)
