"""Sending to VESSL through its command line. The stand-in below takes the commands as `vessl storage` 0.1.199 does:

Usage: vessl storage copy-file [OPTIONS] SOURCE DEST      (--help is the only option)
Usage: vessl storage list-files [OPTIONS] PATH            (likewise)

A copied file keeps its own name below DEST; a listing has coloured headings, rounded sizes, and every path that begins
with the asked one, also of a folder beside it.
"""

import os
import sys
from pathlib import Path

import pytest

from wmtp_ray.artifacts.storage_sync import SyncCounts, list_files, sync
from wmtp_ray.artifacts.vessl_volume import VesslVolume, copy_command, list_command, parse_listing, size_text
from wmtp_ray.errors import ArtifactError

URL = "volume://team/wmtp/storage"
STAND_IN = """#!{python}
import os, shutil, sys
from pathlib import Path
root = Path({root!r})
with open(root / "commands", "a") as file:
    print(*sys.argv[1:], file=file)
match sys.argv[1:]:
    case ["storage", "copy-file", source, dest] if dest.startswith("volume://"):
        target = root / dest.removeprefix("volume://") / os.path.basename(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    case ["storage", "list-files", path] if path.startswith("volume://"):
        asked = str(root / path.removeprefix("volume://"))
        print(" \\x1b[32mPath\\x1b[0m   \\x1b[32mSize\\x1b[0m ")
        for found in sorted(root.rglob("*")):
            if found.is_file() and str(found).startswith(asked):
                print(f" {{os.path.relpath(found, asked)}}   {{found.stat().st_size:.1f}} B ")
    case _:
        sys.exit("Error: no such command")
"""


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for VESSL's side, with `vessl` on the PATH."""
    root, programs = tmp_path / "volume", tmp_path / "bin"
    root.mkdir()
    programs.mkdir()
    (programs / "vessl").write_text(STAND_IN.format(python=sys.executable, root=str(root)))
    (programs / "vessl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return root


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    for name, text in {"models_v2/a b/params.json": "{}", "models_v2/model.safetensors": "0123456789"}.items():
        (tmp_path / "storage" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "storage" / name).write_text(text)
    return tmp_path / "storage"


def send(storage: Path, *, dry_run: bool = False, said: list[str] | None = None) -> SyncCounts:
    say = (said if said is not None else []).append
    destination = VesslVolume(URL, storage, asks=not dry_run)
    return sync(list_files(storage, ["models_v2"]), destination, say, dry_run=dry_run)


def test_commands_are_those_of_vessls_help(tmp_path):
    path = tmp_path / "model.safetensors"
    name = "models_v2/a/model.safetensors"
    assert copy_command(path, URL, name) == ["vessl", "storage", "copy-file", str(path), f"{URL}/models_v2/a"]
    assert copy_command(path, URL, "SHA256SUMS") == ["vessl", "storage", "copy-file", str(path), URL]
    assert list_command(URL) == ["vessl", "storage", "list-files", URL]


def test_files_arrive_under_their_names_and_are_sent_once(storage, volume):
    (volume / "team" / "wmtp" / "storage2").mkdir(parents=True)
    (volume / "team" / "wmtp" / "storage2" / "beside").touch()
    assert send(storage) == SyncCounts(2, 12, 0)
    arrived = volume / "team" / "wmtp" / "storage"
    assert (arrived / "models_v2" / "a b" / "params.json").read_text() == "{}"
    assert (arrived / "models_v2" / "model.safetensors").read_text() == "0123456789"
    assert len((arrived / "SHA256SUMS").read_text().splitlines()) == 2
    assert send(storage) == SyncCounts(0, 0, 2)


def test_what_changed_here_or_is_gone_there_is_sent_again(storage, volume):
    send(storage)
    (storage / "models_v2" / "a b" / "params.json").write_text("[]")
    assert send(storage) == SyncCounts(1, 2, 1)
    (volume / "team" / "wmtp" / "storage" / "models_v2" / "model.safetensors").unlink()
    assert send(storage) == SyncCounts(1, 10, 1)


def test_a_stop_in_between_costs_only_the_file_it_was_in(storage, volume):
    (storage / "models_v2" / "z?").mkdir()
    (storage / "models_v2" / "z?" / "last").touch()
    with pytest.raises(ArtifactError, match=r"cannot name the folder models_v2/z\?"):
        send(storage)
    (storage / "models_v2" / "z?").rename(storage / "models_v2" / "z")
    (storage / "models_v2" / "z" / "last").write_text("!")
    assert send(storage) == SyncCounts(1, 1, 2)


def test_a_dry_run_says_the_commands_and_gives_none(storage, volume):
    said: list[str] = []
    assert send(storage, dry_run=True, said=said) == SyncCounts(2, 12, 0)
    assert f"vessl storage copy-file {storage}/models_v2/model.safetensors {URL}/models_v2 " in said[1]
    assert not (volume / "commands").exists()


def test_a_command_that_fails_or_is_missing_is_told(storage, volume, tmp_path, monkeypatch):
    (tmp_path / "bin" / "vessl").write_text("#!/bin/sh\necho 'Invalid access token.' >&2\nexit 1\n")
    with pytest.raises(ArtifactError, match=r"copy-file .* failed \(Invalid access token\.\)"):
        send(storage)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArtifactError, match=r"no command vessl here.*pip install vessl"):
        send(storage)


def test_files_that_vessl_took_but_does_not_list_are_told(storage, volume, tmp_path):
    script = tmp_path / "bin" / "vessl"
    script.write_text(script.read_text().replace("shutil.copy(source, target)", "pass"))
    with pytest.raises(ArtifactError, match="does not list 2 of the files"):
        send(storage)


@pytest.mark.parametrize("url", ["volume://team", "sv://1/x", "volume:///a/b", "volume://a/b?c", "/mnt/volume"])
def test_what_is_no_volume_is_refused(url, tmp_path):
    with pytest.raises(ArtifactError, match="expected volume://STORAGE/VOLUME"):
        VesslVolume(url, tmp_path, asks=False)


def test_a_listing_gives_sizes_by_path():
    printed = (
        " \x1b[32mPath\x1b[0m                \x1b[32mSize\x1b[0m     \n models_v2/a b/x 1.json  1.3 MB   \n"
        " SHA256SUMS             162.0 B  \n empty                  0 B      \n ../other/file          1.0 GB   \n"
    )
    assert parse_listing(printed) == {"models_v2/a b/x 1.json": "1.3 MB", "SHA256SUMS": "162.0 B", "empty": "0 B"}


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1, "1.0 B"), (1023, "1023.0 B"), (1536, "1.5 KB"), (13_041_312, "12.4 MB"), (14 << 30, "14.0 GB")],
)
def test_sizes_are_printed_as_vessl_prints_them(num_bytes, text):
    assert size_text(num_bytes) == text
