"""Copies of a storage in a mounted folder: only differences, whole or absent, checked, and nothing deleted."""

import hashlib
from pathlib import Path

import pytest

from wmtp_ray.artifacts import storage_sync
from wmtp_ray.artifacts.storage_sync import MountedFolder, SourceFile, SyncCounts, list_files, read_sums, sync
from wmtp_ray.errors import ArtifactError

FOLDERS = ("models_v2", "datasets_v2")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_sync, "CHUNK_BYTES", 4)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    root = tmp_path / "storage"
    for name, text in {
        "models_v2/a/params.json": "{}",
        "models_v2/a/model.safetensors": "0123456789",
        "models_v2/a/.params.json.1f": "temporary",
        "models_v2/.b.1f/model.safetensors": "temporary",
        "datasets_v2/c/train.jsonl": "rows",
        "runs/r/metrics.jsonl": "numbers",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def send(storage: Path, mounted: Path, *, dry_run: bool = False, reread: bool = False) -> SyncCounts:
    return sync(list_files(storage, FOLDERS), MountedFolder(mounted, reread=reread), print, dry_run=dry_run)


def names_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


SENT = {"models_v2/a/params.json", "models_v2/a/model.safetensors", "datasets_v2/c/train.jsonl"}


def test_files_of_the_named_folders_arrive_with_their_sums(storage, tmp_path):
    mounted = tmp_path / "mounted"
    assert send(storage, mounted) == SyncCounts(3, 16, 0)
    assert names_in(mounted) == SENT | {"SHA256SUMS"}
    assert all((mounted / name).read_bytes() == (storage / name).read_bytes() for name in SENT)
    lines = (mounted / "SHA256SUMS").read_text().splitlines()
    assert lines == [f"{hashlib.sha256((mounted / name).read_bytes()).hexdigest()}  {name}" for name in sorted(SENT)]


def test_only_differences_are_sent_and_nothing_is_deleted(storage, tmp_path):
    mounted = tmp_path / "mounted"
    send(storage, mounted)
    (mounted / "models_v2" / "theirs.txt").write_text("kept")
    inode = (mounted / "models_v2" / "a" / "params.json").stat().st_ino
    (storage / "models_v2" / "a" / "model.safetensors").write_text("0123x56789")
    (storage / "datasets_v2" / "c" / "train.jsonl").unlink()
    assert send(storage, mounted) == SyncCounts(1, 10, 1)
    assert (mounted / "models_v2" / "a" / "params.json").stat().st_ino == inode
    assert (mounted / "models_v2" / "a" / "model.safetensors").read_text() == "0123x56789"
    assert names_in(mounted) == SENT | {"SHA256SUMS", "models_v2/theirs.txt"}
    assert "datasets_v2/c/train.jsonl" in read_sums(mounted / "SHA256SUMS")


def test_a_dry_run_touches_nothing(storage, tmp_path):
    assert send(storage, tmp_path / "mounted", dry_run=True) == SyncCounts(3, 16, 0)
    assert not (tmp_path / "mounted").exists()


def test_files_that_someone_else_brought_count_when_their_content_is_right(storage, tmp_path):
    for name, text in (("models_v2/a/params.json", "{}"), ("datasets_v2/c/train.jsonl", "wows")):
        (tmp_path / "mounted" / name).parent.mkdir(parents=True)
        (tmp_path / "mounted" / name).write_text(text)
    assert send(storage, tmp_path / "mounted") == SyncCounts(2, 14, 1)


def test_a_change_at_the_destination_is_found_by_size_or_by_reading_again(storage, tmp_path):
    mounted = tmp_path / "mounted"
    send(storage, mounted)
    (mounted / "models_v2" / "a" / "params.json").write_text("{ }")
    (mounted / "datasets_v2" / "c" / "train.jsonl").write_text("ROWS")
    assert send(storage, mounted).sent == 1
    assert send(storage, mounted, reread=True).sent == 1
    assert send(storage, mounted, reread=True).sent == 0


@pytest.mark.parametrize("partial", ["", "01", "01234567", "0123456789", "01234567890123", "0123WRONG", "WRONG"])
def test_a_copy_that_was_stopped_goes_on_whatever_it_left(storage, tmp_path, partial):
    left = tmp_path / "mounted" / "models_v2" / "a" / ".model.safetensors.partial"
    left.parent.mkdir(parents=True)
    left.write_text(partial)
    send(storage, tmp_path / "mounted")
    assert names_in(tmp_path / "mounted") == SENT | {"SHA256SUMS"}
    assert (left.parent / "model.safetensors").read_text() == "0123456789"


def test_bytes_that_arrived_are_not_written_again(storage, tmp_path, monkeypatch):
    """Of 0123456789 in chunks of 4, 01234567 is there: 89 is what remains to be read from the source at the end."""
    written: list[bytes] = []
    left = tmp_path / "mounted" / "models_v2" / "a" / ".model.safetensors.partial"
    left.parent.mkdir(parents=True)
    left.write_text("01234567")
    inode = left.stat().st_ino
    file = next(each for each in list_files(storage, FOLDERS) if each.name.endswith("safetensors"))
    with file.path.open("rb") as reader, left.open("r+b") as writer:
        storage_sync._skip_common(reader, writer, written.append)
        assert (reader.tell(), writer.tell()) == (8, 8)
    assert written == [b"0123", b"4567"]
    MountedFolder(tmp_path / "mounted", reread=False).put(file)
    assert (left.parent / "model.safetensors").stat().st_ino == inode


def test_a_source_that_changes_meanwhile_is_refused_and_nothing_takes_its_place(storage, tmp_path):
    files = list_files(storage, FOLDERS)
    (storage / "models_v2" / "a" / "model.safetensors").write_text("grows and grows")
    with pytest.raises(ArtifactError, match=r"model\.safetensors changed while it was copied"):
        sync(files, MountedFolder(tmp_path / "mounted", reread=False), print, dry_run=False)
    assert not any("model" in name.rpartition("/")[2] for name in names_in(tmp_path / "mounted"))


def test_a_destination_that_takes_no_files_is_told(storage, tmp_path):
    (tmp_path / "mounted").write_text("a file")
    with pytest.raises(ArtifactError, match=r"could not be written .*same command again"):
        send(storage, tmp_path / "mounted")


def test_a_folder_that_is_not_there_is_refused(storage):
    with pytest.raises(ArtifactError, match=r"models_v3 is no folder"):
        list_files(storage, ["models_v3"])


def test_what_was_listed_is_what_is_sent(storage):
    assert [(file.name, file.num_bytes) for file in list_files(storage, FOLDERS)] == [
        ("models_v2/a/model.safetensors", 10),
        ("models_v2/a/params.json", 2),
        ("datasets_v2/c/train.jsonl", 4),
    ]
    assert isinstance(list_files(storage, ["runs"])[0], SourceFile)
