"""Tests of the unit that systemd runs, judged by systemd's own tools, and of what it is told."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl.bundle import Bundle
from edgetl.errors import SettingsError
from tests.serve.conftest import Start

serve = pytest.importorskip("edgetl.serve", reason="fastapi answers over HTTP")
ANALYZE = shutil.which("systemd-analyze")
judged = pytest.mark.skipif(ANALYZE is None, reason="no systemd is installed: apt-get install systemd")


@pytest.fixture(params=["loopback", "socket", "beyond"])
def unit(request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return the file of a unit."""
    (tmp_path / "token").write_text("f" * 32)
    flags = {
        "loopback": {"port": 9000},
        "socket": {"socket": Path("/run/edge/edge.sock")},
        "beyond": {"host": "0.0.0.0", "token_file": tmp_path / "token"},
    }[request.param]
    path = tmp_path / "edge.service"
    path.write_text(serve.write_unit(serve.read_settings([str(tiny_bundle)], flags)))
    return path


@judged
def test_it_is_exposed_as_little_as_it_can_be(unit: Path) -> None:
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-600:] + ran.stderr


@judged
def test_systemd_finds_nothing_wrong_with_it(unit: Path) -> None:
    ran = subprocess.run([str(ANALYZE), "verify", "--man=no", str(unit)], check=False, capture_output=True, text=True)
    assert "edge.service" not in ran.stderr, ran.stderr


def test_it_says_what_was_typed_with_paths_that_hold_anywhere(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bundle.parent)
    flags = {"port": 9000, "watch": True, "token_file": tmp_path / "token", "batch": 1}
    text = serve.write_unit(serve.read_settings(["sorter=tiny"], flags))
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert line.endswith(
        f" -m edgetl serve sorter={tiny_bundle} --port 9000 --batch 1 --watch --token-file %d/token_file"
    )
    assert f"LoadCredential=token_file:{tmp_path / 'token'}" in text


def test_what_systemd_would_read_into_a_path_is_left_as_it_is(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    folder = make_bundle(tmp_path / "50%h $HOME").folder
    (line,) = [
        line
        for line in serve.write_unit(serve.read_settings([f"sorter={folder}"], {})).splitlines()
        if line.startswith("ExecStart=")
    ]
    assert "50%%h $$HOME" in line


@pytest.mark.parametrize("path", ["edge.sock", "/tmp/edge/edge.sock", "/run/edge.sock", "/run/a/b/edge.sock"])
def test_a_socket_whose_folder_systemd_does_not_make_is_refused(path: str, tiny_bundle: Path) -> None:
    with pytest.raises(SettingsError, match="systemd makes sockets' folders in /run"):
        serve.write_unit(serve.read_settings([str(tiny_bundle)], {"socket": Path(path)}))


def test_systemd_hears_when_it_is_ready_when_it_lives_and_when_it_stops(
    start_server: Start, tiny_bundle: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        heard = set()
        with start_server(tiny_bundle, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as running:
            while heard < {b"READY=1", b"WATCHDOG=1"}:
                heard.add(systemd.recv(100))
            assert running.stop() == 0
        while b"STOPPING=1" not in heard:
            heard.add(systemd.recv(100))
