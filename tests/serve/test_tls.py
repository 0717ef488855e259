"""Tests of the server over TLS, with a certificate of the tests' own."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.conftest import Running, Start

OPENSSL = shutil.which("openssl")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(OPENSSL is None, reason="no openssl is installed to make a certificate"),
]
SECONDS = 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the files of a certificate for this machine and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            str(OPENSSL), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", str(key), "-out", str(made),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


@pytest.fixture(scope="module")
def sealed(start_server: Start, tiny_bundle: Path, certificate: tuple[Path, Path]) -> Iterator[Running]:
    """Return a server that answers over TLS only."""
    words = ("--tls-certificate", certificate[0], "--tls-key", certificate[1], "--receive-seconds", SECONDS)
    with start_server(tiny_bundle, *words) as running:
        yield running


def test_a_photo_is_answered(sealed: Running, certificate: tuple[Path, Path], tiny_photos: tuple[Path, ...]) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    connection = http.client.HTTPSConnection("127.0.0.1", sealed.port, timeout=10, context=trusting)
    connection.request("POST", "/predict", tiny_photos[0].read_bytes())
    answer = connection.getresponse()
    assert answer.status == 200
    assert b'"predictions"' in answer.read()
    connection.close()


def test_what_is_not_sealed_is_not_answered(sealed: Running) -> None:
    with socket.create_connection(("127.0.0.1", sealed.port), timeout=10) as client:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
        try:
            said = client.recv(4096)
        except ConnectionResetError:
            said = b""
    assert b"HTTP/1.1" not in said


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_a_handshake_that_does_not_go_on_is_ended(sent: bytes, sealed: Running) -> None:
    with socket.create_connection(("127.0.0.1", sealed.port), timeout=SECONDS + 5) as client:
        client.sendall(sent)
        started = time.monotonic()
        try:
            said = client.recv(4096)
        except ConnectionResetError:
            said = b""
    assert said == b""
    assert time.monotonic() - started <= SECONDS + 1
