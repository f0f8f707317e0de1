import math
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.full_disk import files_limited_to
from wmtp_ray.artifacts.snapshots import SnapshotDirectory, open_attempt, version_of_file
from wmtp_ray.artifacts.streamed_tensors import forms_of
from wmtp_ray.errors import ArtifactError

LONG_S = 30.0


def tensors(version: int) -> dict[str, Tensor]:
    return {"layers.0.w": torch.full((3, 5), float(version)), "value_head.b": torch.arange(2.0) + version}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


@pytest.fixture
def directory(tmp_path: Path) -> SnapshotDirectory:
    return open_attempt(tmp_path / "snapshots", "attempt_1", [])


def test_what_is_put_is_got_bit_for_bit_in_every_dtype(directory):
    stored = {str(dtype): torch.randn(4, 6).to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)} | {
        "nan": torch.tensor([float("nan"), -0.0])
    }
    directory.put(7, stored)
    loaded = directory.get(7, 0.0)
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name].view(torch.uint8), stored[name].view(torch.uint8)) for name in stored)


def test_putting_takes_views_and_parameters_and_moves_neither(directory):
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    before = parameter.detach().clone()
    directory.put(0, {"transposed": parameter.t(), "row": parameter[1]})
    assert_same(directory.get(0, 0.0), {"transposed": before.t(), "row": before[1]})
    assert torch.equal(parameter, before)


def test_what_is_put_tensor_by_tensor_is_what_is_put_at_once(directory):
    stored = tensors(3)
    read: list[str] = []
    directory.put_streamed(3, forms_of(stored), lambda name: (read.append(name), stored[name])[1])
    assert_same(directory.get(3, 0.0), stored)
    assert sorted(read) == sorted(stored)


def test_a_version_does_not_follow_the_tensors_it_was_made_from(directory):
    live = {"w": torch.zeros(3)}
    directory.put(0, live)
    live["w"].add_(1.0)
    assert torch.equal(directory.get(0, 0.0)["w"], torch.zeros(3))


def test_a_reader_waits_until_the_version_is_published(directory):
    publisher = threading.Timer(0.1, directory.put, (5, tensors(5)))
    publisher.start()
    assert_same(directory.get(5, LONG_S), tensors(5))
    publisher.join()


def test_after_the_deadline_the_reader_says_what_it_waited_for_and_what_is_there(directory):
    directory.put(0, tensors(0))
    with pytest.raises(ArtifactError) as caught:
        directory.get(5, 0.05)
    message = str(caught.value)
    assert "Version 5" in message
    assert str(directory.path) in message
    assert directory.file_of(0).name in message
    assert "rank 0" in message


def test_an_attempt_that_is_over_is_told_at_once(directory):
    directory.path.rmdir()
    with pytest.raises(ArtifactError, match=r"Version 3 .* attempt that has ended"):
        directory.get(3, deadline_s=math.inf)


def test_a_reader_that_waits_is_told_when_its_attempt_ends(directory):
    ending = threading.Timer(0.1, open_attempt, (directory.path.parent, "attempt_2", []))
    ending.start()
    with pytest.raises(ArtifactError, match="attempt that has ended"):
        directory.get(3, deadline_s=math.inf)
    ending.join()


def test_a_reader_never_sees_half_a_file_while_versions_are_written_over(directory):
    """The writer replaces one version again and again; every read is of one writing, whole."""

    def write() -> None:
        for number in range(1, 16):
            directory.put(0, {"w": torch.full((500_000,), float(number))})

    directory.put(0, {"w": torch.zeros(500_000)})
    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while writer.is_alive():
        values = directory.get(0, LONG_S)["w"]
        assert bool((values == values[0]).all())
        seen.append(float(values[0]))
    assert seen == sorted(seen)
    assert len(set(seen)) > 1, "no read fell between two writings: the test proved nothing"


def test_readers_survive_versions_being_dropped_under_them(directory):
    """`get` finds a file or waits; a file that goes between two looks is never another error."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            directory.put(0, tensors(0))
            directory.drop_before(1)

    churner = threading.Thread(target=churn)
    churner.start()
    try:
        for _ in range(15):
            assert_same(directory.get(0, LONG_S), tensors(0))
    finally:
        stop.set()
        churner.join()


@pytest.mark.parametrize("num_bytes", [0, 7, 40, 150])
def test_a_damaged_version_is_named(directory, num_bytes):
    directory.put(2, tensors(2))
    path = directory.file_of(2)
    assert path.stat().st_size > num_bytes
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ArtifactError, match=f"{path.name} is no whole snapshot"):
        directory.get(2, LONG_S)


@pytest.mark.parametrize("num_bytes", [0, 50, 3000])
def test_a_full_disk_is_said_and_leaves_the_older_writing_and_nothing_else(directory, num_bytes):
    directory.put(1, tensors(1))
    with files_limited_to(num_bytes), pytest.raises(ArtifactError) as caught:
        directory.put(1, {"w": torch.ones(5000)})
    message = str(caught.value)
    assert f"Version 1 of the critic could not be written to {directory.path}" in message
    assert "Free disk space" in message
    assert [path.name for path in directory.path.iterdir()] == [directory.file_of(1).name]
    assert_same(directory.get(1, 0.0), tensors(1))


def test_files_are_listed_by_version_not_by_the_digits(directory):
    for version in (10, 9, 100, 0):
        directory.put(version, tensors(version))
    assert [version_of_file(path) for path in directory.files()] == [0, 9, 10, 100]
    assert [version_of_file(path) for path in directory.files(oldest=10)] == [10, 100]


def test_dropping_removes_exactly_the_older_versions(directory):
    for version in (0, 5, 10):
        directory.put(version, tensors(version))
    directory.drop_before(5)
    assert [version_of_file(path) for path in directory.files()] == [5, 10]
    assert_same(directory.get(5, 0.0), tensors(5))
    directory.drop_before(5)
    assert [version_of_file(path) for path in directory.files()] == [5, 10]


def test_a_new_attempt_has_what_a_checkpoint_carried_and_nothing_of_older_attempts(directory):
    for version in (0, 5, 10):
        directory.put(version, tensors(version))
    checkpoint = directory.path.parent.parent / "checkpoint"
    checkpoint.mkdir()
    carried = [path.rename(checkpoint / path.name) for path in directory.files(oldest=5)]
    new = open_attempt(directory.path.parent, "attempt_2", carried)
    assert [version_of_file(path) for path in new.files()] == [5, 10]
    assert_same(new.get(5, 0.0), tensors(5))
    assert [path.name for path in directory.path.parent.iterdir()] == ["attempt_2"]
    new.drop_before(100)
    assert all(path.exists() for path in carried), "the checkpoint keeps its own copies"
