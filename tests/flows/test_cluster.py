"""An address that names no cluster is refused at once, with what to do about it."""

import socket
from pathlib import Path

import pytest

from wmtp_ray.errors import ConfigError
from wmtp_ray.flows.cluster import joined
from wmtp_ray.preflight.ray_place import has_token


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "head", "head:port"])
def test_another_kind_of_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert "expected HOST:PORT" in refusal(monkeypatch, address)


def test_a_port_where_nothing_listens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert f"Nothing answers at RAY_ADDRESS={address}" in refusal(monkeypatch, address)


def test_a_port_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Nothing answers" in refusal(monkeypatch, "127.0.0.1:99999")


def test_a_token_is_found_where_ray_looks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not has_token()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    assert has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert not has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    assert has_token()


def refusal(monkeypatch: pytest.MonkeyPatch, address: str) -> str:
    """Return what joining an address is refused with, on no Ray yet."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError) as refused, joined(num_cpus=None):
        pass
    return str(refused.value)
