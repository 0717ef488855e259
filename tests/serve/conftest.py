"""Servers on loopback for the tests of the serve room."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A server that answers at a port of this machine, and the file of what it says on stderr."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Return the answer to one request on a connection of its own; `_` in a header's name stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            got = connection.getresponse()
            return Answer(
                status=got.status, headers={name.lower(): value for name, value in got.getheaders()}, body=got.read()
            )
        finally:
            connection.close()

    def stop(self) -> int:
        """End the server as systemd does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Return a function that starts `edgetl serve` with these words: `with start_server(bundle, "--queue", 2) as s`."""
    pytest.importorskip("fastapi", reason="fastapi answers over HTTP")

    @contextmanager
    def start(*words: object, **environment: str) -> Iterator[Running]:
        log = tmp_path_factory.mktemp("server") / "log"
        command = [sys.executable, "-m", "edgetl", "serve", "--port", "0", *map(str, words)]
        with log.open("w") as err:
            process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=err, text=True
            )
        try:
            yield Running(process=process, port=_port_of(process, log), log=log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    return start


@pytest.fixture(scope="session")
def server(start_server: Start, tiny_bundle: Path) -> Iterator[Running]:
    """Return a server of the tiny bundle, shared by all tests: ask it, do not stop it."""
    with start_server(tiny_bundle) as running:
        yield running


@pytest.fixture
def elsewhere(own_bundle: Path) -> Path:
    """Return a bundle for a GPU, which this machine's engine cannot use."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime answers")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this onnxruntime can use a GPU")
    manifest = own_bundle / "manifest.json"
    said = json.loads(manifest.read_text())
    said["artifacts"][0]["execution"]["device"] = "cuda"
    manifest.write_text(json.dumps(said))
    return own_bundle


def _port_of(process: subprocess.Popen[str], log: Path) -> int:
    assert process.stdout is not None
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if select.select([process.stdout], [], [], 0.1)[0]:
            line = process.stdout.readline()
            if line.startswith("answering at "):
                return int(line.rstrip().rpartition(":")[2])
    raise AssertionError(f"the server did not start: {log.read_text()}")
