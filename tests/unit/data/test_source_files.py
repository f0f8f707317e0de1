import sys
from pathlib import Path
from types import ModuleType

import pytest

from wmtp_ray.data.source_files import locate
from wmtp_ray.errors import ArtifactError, DataError

PATTERNS = {split: (f"data/{split}-*.parquet", f"{split}-*.parquet") for split in ("train", "valid")}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def install_hub(monkeypatch: pytest.MonkeyPatch, snapshot_download: object) -> None:
    module = ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


@pytest.mark.parametrize("folder", ["data/", ""])
def test_the_files_of_a_split_are_sorted_wherever_the_hubs_folder_is_entered(tmp_path: Path, folder: str) -> None:
    names = [f"{folder}train-0000{n}-of-00002-x.parquet" for n in (1, 0)]
    touch(tmp_path, *names, f"{folder}valid-00000-of-00001-x.parquet", f"{folder}test-00000-of-00001-x.parquet")
    located = locate(str(tmp_path), "some/set", "main", PATTERNS)
    assert located.files["train"] == tuple(tmp_path / name for name in sorted(names))
    assert (located.origin, located.revision, list(located.files)) == ("local", None, ["train", "valid"])


def test_a_split_without_files_lists_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, *(f"other/{n}.csv" for n in range(7)), "data/train-0.parquet")
    with pytest.raises(DataError, match=r"other/0\.csv.* and 3 more files, expected data/valid-\*\.parquet or"):
        locate(str(tmp_path), "some/set", "main", PATTERNS)


def test_an_empty_folder_and_an_absent_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no files, expected data/train"):
        locate(str(tmp_path), "some/set", "main", PATTERNS)
    with pytest.raises(DataError, match="found nothing, expected a folder of some/set"):
        locate(str(tmp_path / "absent"), "some/set", "main", PATTERNS)


def test_a_file_is_the_source_of_one_split_only(tmp_path: Path) -> None:
    path = touch(tmp_path, "mbpp.jsonl") / "mbpp.jsonl"
    located = locate(str(path), "some/set", "main", {"all": ("full/*.parquet",)})
    assert (located.root, located.files) == (tmp_path, {"all": (path,)})
    with pytest.raises(DataError, match="one file for several splits"):
        locate(str(path), "some/set", "main", PATTERNS)


def test_the_hub_is_asked_for_its_own_names_and_its_commit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = touch(tmp_path / COMMIT, "data/train-0.parquet", "data/valid-0.parquet")
    asked = []

    def snapshot_download(name: str, *, repo_type: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, revision, allow_patterns))
        return str(snapshot)

    install_hub(monkeypatch, snapshot_download)
    located = locate("hub", "some/set", "v1", PATTERNS)
    assert asked == [("some/set", "dataset", "v1", ["data/train-*.parquet", "data/valid-*.parquet"])]
    assert (located.origin, located.revision) == ("hub", COMMIT)
    assert located.files["valid"] == (snapshot / "data" / "valid-0.parquet",)


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    install_hub(monkeypatch, unreachable)
    with pytest.raises(
        ArtifactError, match=r"some/set at revision main could not be downloaded \(no route to host.*network"
    ):
        locate("hub", "some/set", "main", PATTERNS)


def test_the_hub_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ArtifactError, match=r"pip install 'wmtp_ray\[hf\]'"):
        locate("hub", "some/set", "main", PATTERNS)


def test_the_real_package_gives_a_folder_named_after_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache, laid out as a download leaves it, and no network."""
    hub = pytest.importorskip("huggingface_hub")
    cached = tmp_path / "datasets--some--set"
    touch(cached / "snapshots" / COMMIT, "data/train-0.parquet", "data/valid-0.parquet")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    download = hub.snapshot_download
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *a, **k: download(*a, **k, cache_dir=tmp_path, local_files_only=True)
    )
    located = locate("hub", "some/set", "main", PATTERNS)
    assert located.revision == COMMIT
    assert [path.name for path in located.files["train"]] == ["train-0.parquet"]
    with pytest.raises(ArtifactError, match="could not be downloaded"):
        locate("hub", "other/set", "main", PATTERNS)
