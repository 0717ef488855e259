"""Tests of starting and stopping the server, and of who may ask."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetl.errors import MissingError
from tests.serve.conftest import Running, Start
from tests.test_lean_runtime import SITE

SECRET = "canary-" + "7" * 32


@pytest.fixture(scope="module")
def guarded(start_server: Start, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server that asks for a token."""
    path = tmp_path_factory.mktemp("secret") / "token"
    path.write_text(f"{SECRET}\n")
    with start_server(tiny_bundle, "--token-file", path, "--access-log") as running:
        yield running


def test_a_device_without_training_libraries_serves(
    start_server: Start, tiny_bundle: Path, tiny_photos: tuple[Path, ...], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    with start_server(tiny_bundle, PYTHONPATH=str(tmp_path)) as running:
        assert running.ask("POST", "/predict", tiny_photos[0].read_bytes()).status == 200


class TestStopping:
    def test_it_ends_with_0_when_it_is_told_to_stop(self, start_server: Start, tiny_bundle: Path) -> None:
        with start_server(tiny_bundle) as running:
            assert running.ask("GET", "/v2/health/ready").status == 200
            assert running.stop() == 0

    def test_what_was_accepted_is_answered_first(
        self, start_server: Start, tiny_bundle: Path, tiny_photos: tuple[Path, ...]
    ) -> None:
        body, told = tiny_photos[0].read_bytes(), []
        # A batch that waits to fill holds the request while the server is told to stop.
        with start_server(tiny_bundle, "--batch", 8, "--delay-ms", 1000, "--workers", 1) as running:
            asking = threading.Thread(target=lambda: told.append(running.ask("POST", "/predict", body).status))
            asking.start()
            time.sleep(0.4)
            assert running.stop() == 0
            asking.join()
        assert told == [200]

    def test_a_unix_socket_is_taken_back(self, tiny_bundle: Path, tmp_path: Path) -> None:
        pytest.importorskip("fastapi", reason="fastapi answers over HTTP")
        path = tmp_path / "edge.sock"
        command = [sys.executable, "-m", "edgetl", "serve", str(tiny_bundle), "--socket", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, umask=0o077) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"answering at unix:{path}\n"
            assert path.stat().st_mode & 0o777 == 0o666
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(str(path))
                client.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                assert client.recv(1024).startswith(b"HTTP/1.1 200 OK")
            process.terminate()
            assert process.wait(timeout=30) == 0
        assert not path.exists()


class TestStarting:
    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgetl", "serve", *map(str, words)]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    def test_a_port_that_is_taken_is_said(self, server: Running, tiny_bundle: Path) -> None:
        ran = self.run(tiny_bundle, "--port", server.port)
        assert ran.returncode == 4
        assert f"127.0.0.1:{server.port}: cannot listen there: Address already in use. Choose another" in ran.stderr

    def test_what_is_no_bundle_is_said(self, tmp_path: Path) -> None:
        ran = self.run(tmp_path, "--port", 0)
        assert ran.returncode == 2
        assert "manifest.json" in ran.stderr

    def test_a_bundle_that_answers_otherwise_than_in_the_build_is_not_served(self, own_bundle: Path) -> None:
        from edgetl.bundle import Bundle, write_bundle, write_file

        bundle = Bundle.open(own_bundle)
        contents = {name: bundle.read(name) for name in bundle.manifest.files}

        def compose(folder: Path) -> object:
            for name, content in contents.items():
                write_file(folder / name, content)
            golden = bundle.manifest.golden
            assert golden is not None
            swapped = golden.model_copy(update={"images": golden.images[::-1]})
            return bundle.manifest.model_copy(update={"golden": swapped, "files": {}})

        write_bundle(own_bundle, compose)  # type: ignore[arg-type]
        ran = self.run(own_bundle, "--port", 0)
        assert ran.returncode == 3
        assert "golden images are preprocessed differently here" in ran.stderr

    def test_other_machines_are_not_let_in_without_a_token(self, tiny_bundle: Path) -> None:
        ran = self.run(tiny_bundle, "--port", 0, "--host", "0.0.0.0")
        assert ran.returncode == 2
        assert "host 0.0.0.0 can be reached from other machines, and no token guards it" in ran.stderr

    def test_two_bundles_of_one_name_are_refused(self, tiny_bundle: Path, own_bundle: Path) -> None:
        ran = self.run(tiny_bundle, own_bundle)
        assert ran.returncode == 2
        assert "Name one of them otherwise: NAME=FOLDER" in ran.stderr


class TestToken:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/predict"),
            ("GET", "/metrics"),
            ("GET", "/v2"),
            ("GET", "/v2/models/tiny"),
            ("POST", "/v2/models/tiny/infer"),
            ("GET", "/openapi.json"),
            ("GET", "/nothing"),
        ],
    )
    @pytest.mark.parametrize("given", ["", "Bearer", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", f"Basic {SECRET}"])
    def test_nothing_but_health_is_told_without_it(self, method: str, path: str, given: str, guarded: Running) -> None:
        answer = guarded.ask(method, path, **({"authorization": given} if given else {}))
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert SECRET not in answer.body.decode()

    def test_with_it_everything_is(self, guarded: Running, tiny_photos: tuple[Path, ...]) -> None:
        body = tiny_photos[0].read_bytes()
        assert guarded.ask("POST", "/predict", body, authorization=f"Bearer {SECRET}").status == 200
        assert SECRET not in guarded.ask("GET", "/metrics", authorization=f"Bearer {SECRET}").body.decode()

    def test_every_other_way_in_asks_for_it(self, guarded: Running) -> None:
        paths = guarded.ask("GET", "/openapi.json", authorization=f"Bearer {SECRET}").json["paths"]
        ways = [(method.upper(), path) for path, methods in paths.items() for method in methods]
        told = {
            way: guarded.ask(
                way[0], way[1].format(name="tiny", version="000000000000"), authorization="Bearer x"
            ).status
            for way in ways
        }
        assert {path for (_, path), status in told.items() if status != 401} == {"/v2/health/live", "/v2/health/ready"}
        assert len(told) >= 15

    @pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
    def test_health_is_told_to_everybody(self, path: str, guarded: Running) -> None:
        assert guarded.ask("GET", path).status == 200

    def test_it_stands_in_no_process_list(self, guarded: Running) -> None:
        for name in ("cmdline", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{guarded.process.pid}/{name}").read_bytes()

    def test_it_stands_in_no_log(self, guarded: Running) -> None:
        asked = guarded.ask("GET", "/v2", authorization=f"Bearer {SECRET}", x_request_id="seen")
        assert asked.status == 200
        refused = guarded.ask("POST", "/predict", SECRET.encode(), authorization=f"Bearer {SECRET}")
        assert refused.status == 400
        said = guarded.log.read_text()
        assert '"seen"' in said
        assert SECRET not in said + refused.body.decode()

    @pytest.mark.parametrize("content", ["", "short", "two words of which none is a token", "ü" * 40])
    def test_a_file_without_a_good_one_is_refused(self, content: str, tiny_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(content)
        ran = TestStarting().run(tiny_bundle, "--port", 0, "--token-file", tmp_path / "token")
        assert ran.returncode == 2
        assert "must hold one token of at least 16 characters. Make one: openssl rand -hex 32" in ran.stderr


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
class TestWithoutItsDevice:
    def test_a_bundle_is_not_served(self, times: int, elsewhere: Path) -> None:
        for _ in range(times):
            ran = subprocess.run(
                [sys.executable, "-m", "edgetl", "serve", str(elsewhere), "--port", "0"],
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert ran.returncode == MissingError.exit_code
            assert "or let onnxruntime on cpu in fp32 answer: --fallback" in ran.stderr
            assert ran.stdout == ""

    def test_what_answers_in_its_place_is_said_in_health_metrics_and_log(
        self, times: int, elsewhere: Path, start_server: Start, tiny_photos: tuple[Path, ...]
    ) -> None:
        for _ in range(times):
            with start_server(elsewhere, "--fallback") as running:
                assert running.ask("POST", "/predict", tiny_photos[0].read_bytes()).status == 200
                assert running.ask("GET", "/v2/health/ready").json == {"ready": True, "degraded": ["tiny"]}
                (told,) = running.ask("POST", "/v2/repository/index").json
                assert b'edgetl_degraded{model="tiny"} 1.0' in running.ask("GET", "/metrics").body
            assert "onnxruntime on cpu answers instead, in fp32: model.onnx is to run on cuda" in told["reason"]
            assert "onnxruntime on cpu answers instead, in fp32" in running.log.read_text()
