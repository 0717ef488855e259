"""Tests of what a stranger may send: photos that are bombs, broken forms and tensors, smuggled requests, odd names."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import socket
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.serve.bombs import bombs, mutants
from tests.serve.conftest import Running, Start
from tests.serve.harm import AUDIT, MB, Pulse, hold_loop, unharmed, within
from tests.serve.payloads import forms, names, smuggled

pytestmark = pytest.mark.alone

MOST_BYTES = MB
HEALTH_MS = 50
STALL_MS = 100


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that names what the attacked server opens."""
    return tmp_path_factory.mktemp("audit") / "opened"


@pytest.fixture(scope="module")
def attacked(start_server: Start, tiny_bundle: Path, opened: Path) -> Iterator[Running]:
    """Return a server that keeps account of the files that it opens."""
    (opened.parent / "sitecustomize.py").write_text(AUDIT)
    words = (tiny_bundle, "--max-bytes", MOST_BYTES, "--receive-seconds", 3)
    told = {"PYTHONPATH": str(opened.parent), "OPENED": str(opened), "PYTHONDONTWRITEBYTECODE": "1"}
    with start_server(*words, **told) as running:
        yield running


@pytest.fixture(autouse=True)
def _unharmed(attacked: Running, opened: Path, tiny_photos: tuple[Path, ...]) -> Iterator[None]:
    """After every attack the server is as before, and it has written nothing."""
    with unharmed(attacked, tiny_photos[0]):
        yield
    assert [line for line in opened.read_text().splitlines() if line.startswith("w")] == []


@contextmanager
def keep_asking(server: Running) -> Iterator[Callable[..., http.client.HTTPResponse]]:
    """Give a function that sends a request, on one connection for as long as the server keeps it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer

    try:
        yield ask
    finally:
        connection.close()


def say(server: Running, sent: bytes) -> bytes:
    """Return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(sent)
        parts = []
        try:
            while part := client.recv(65536):
                parts.append(part)
        except ConnectionResetError:  # closed with bytes of ours unread
            pass
    return b"".join(parts)


class TestPhotos:
    def test_bombs_are_refused_before_they_unpack(self, attacked: Running) -> None:
        made = bombs()
        assert len(made) >= 40

        def send() -> float:
            with Pulse(attacked) as pulse, keep_asking(attacked) as ask:
                told = {name: ask("POST", "/predict", content).status for name, content in made.items()}
            assert {name: status for name, status in told.items() if not 400 <= status < 500} == {}
            return pulse.percentile_ms(99)

        within(HEALTH_MS, send)

    def test_many_that_are_large_do_not_unpack_together(self, attacked: Running) -> None:
        flat = io.BytesIO()
        Image.new("L", (5_000, 5_000)).save(flat, "PNG", compress_level=9)
        part = (
            b'--e\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + flat.getvalue() + b"\r\n"
        )
        with keep_asking(attacked) as ask:
            told = ask("POST", "/predict", 12 * part + b"--e--\r\n", content_type="multipart/form-data; boundary=e")
        assert told.status == 413
        peak = Path(f"/proc/{attacked.process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        assert int(peak) < 600_000  # kB; twelve of them together are 900 MB

    @pytest.mark.parametrize("count", [1_500, pytest.param(50_000, marks=pytest.mark.slow)])
    def test_damaged_photos_are_answered_or_refused(self, count: int, attacked: Running) -> None:
        def send() -> float:
            with Pulse(attacked) as pulse, keep_asking(attacked) as ask:
                told = Counter(ask("POST", "/predict", content).status for content in mutants(count, seed=8))
            assert told.keys() == {200, 400}, told
            assert min(told.values()) > count // 20  # both happen, or the mutants are no test
            return pulse.percentile_ms(99)

        within(HEALTH_MS, send)


def test_broken_forms_are_refused_and_hold_nobody_up(attacked: Running) -> None:
    with keep_asking(attacked) as ask:
        for media_type, body in forms(500, MOST_BYTES):

            def send(media_type: str = media_type, body: bytes = body) -> None:
                status = ask("POST", "/predict", body, content_type=media_type).status
                assert 400 <= status < 500, (status, media_type[:80], body[:80])

            within(STALL_MS, partial(hold_loop, attacked, send))


def infer_request(**changed: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["?"], **changed}
    return {"inputs": [tensor]}


class TestTensors:
    path = "/v2/models/tiny/infer"

    @pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 413)])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_may_be_as_long_as_it_may_be(
        self, over: int, status: int, chunked: bool, attacked: Running, tiny_photos: tuple[Path, ...]
    ) -> None:
        text = json.dumps(infer_request(data=[base64.b64encode(tiny_photos[0].read_bytes()).decode()])).encode()
        body = text + b" " * (MOST_BYTES + over - len(text))
        connection = http.client.HTTPConnection("127.0.0.1", attacked.port, timeout=30)
        parts = (body[start : start + 60_000] for start in range(0, len(body), 60_000))
        try:
            connection.request("POST", self.path, parts if chunked else body, encode_chunked=chunked)
            told = connection.getresponse().status
        except (BrokenPipeError, ConnectionResetError):  # refused and closed before all was sent
            told = 413
        connection.close()
        assert told == status

    @pytest.mark.parametrize("length", [10, 150, 10**9, 10**30])
    def test_a_length_that_lies_costs_nothing(self, length: int, attacked: Running) -> None:
        body = json.dumps(infer_request()).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n\r\n".encode()
        said = say(attacked, head + body)
        statuses = [line.split()[1] for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        assert statuses
        assert all(status.startswith(b"4") for status in statuses), said

    @pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
    def test_tensors_that_make_no_sense_are_refused(self, count: int, attacked: Running) -> None:
        draw = random.Random(10)
        odd = [
            None, True, -1, 0, 1.5, 2**31, 2**63, 2**64, 1e308, float("inf"), "", "image", "é" * 99, [], {}, [[]],
            [1], [1, 33, 33, 3], [2**32, 2**32], [-1, 33, 33, 3], [0, 33, 33, 3], ["1"], {"a": 1}, [None], "UINT8",
            "FP32", "BYTES", base64.b64encode(b"x" * 99).decode(), [256], [-1], [[[[0, 0, 0]]]], "NaN", "\x00",
        ]  # fmt: skip
        keys = ("name", "shape", "datatype", "data", "parameters", "binary_data_size", "classification")
        with keep_asking(attacked) as ask:
            for _ in range(count):
                request = infer_request(**{draw.choice(keys): draw.choice(odd) for _ in range(draw.randint(1, 3))})
                if draw.random() < 0.3:
                    request[draw.choice(("id", "inputs", "outputs", "parameters"))] = draw.choice(odd)
                text = json.dumps(request).encode()
                if draw.random() < 0.3:
                    place = draw.randrange(len(text))
                    text = text[:place] + draw.choice((b"", b"[" * 5000, b'"', b"\xff", b"9" * 5000)) + text[place:]
                headers = {}
                if draw.random() < 0.3:
                    headers["Inference_Header_Content_Length"] = str(
                        draw.choice((0, 1, len(text), 2**40, "x", -1, "1" * 5000))
                    )
                status = ask("POST", self.path, text, **headers).status
                assert 400 <= status < 500, (status, text[:200], headers)


def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(attacked: Running) -> None:
    made = dict(smuggled())
    assert len(made) >= 60
    said = {name: say(attacked, sent) for name, sent in made.items()}
    assert {name: each for name, each in said.items() if not each.startswith(b"HTTP/1.1 4")} == {}
    assert {name: each for name, each in said.items() if each.count(b"HTTP/1.1 ") != 1} == {}


@pytest.mark.parametrize("count", [300, pytest.param(2_000, marks=pytest.mark.slow)])
def test_no_name_of_a_model_is_a_path(count: int, attacked: Running, opened: Path) -> None:
    before = opened.read_text()
    made = list(names(count))
    assert len(made) >= 300 + count
    ways = (
        "/v2/models/{}",
        "/v2/models/{}/infer",
        "/v2/models/{}/card",
        "/v2/models/tiny/versions/{}",
        "/predict?model={}",
    )
    with keep_asking(attacked) as ask:
        for index, name in enumerate(made):
            way = ways[index % len(ways)]
            method = "POST" if way.endswith(("infer", "={}")) else "GET"
            for quoted in (urllib.parse.quote(name, safe=""), urllib.parse.quote(name, safe="/%:;&=$~|")):
                status = ask(method, way.format(quoted), b"{}" if method == "POST" else b"").status
                assert status in {400, 404, 405, 422}, (status, way, name)
    assert opened.read_text() == before


def test_no_url_is_ever_asked(attacked: Running, tiny_photos: tuple[Path, ...]) -> None:
    hits: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.2)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    hits.append(canary.accept()[1])

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            sent = _send_urls(attacked, f"127.0.0.1:{canary.getsockname()[1]}", tiny_photos[0].read_bytes())
        finally:
            ended.set()
            listening.join()
    assert sent >= 200
    assert hits == []


def _send_urls(server: Running, host: str, photo: bytes) -> int:
    """Send URLs of a host in all that a request has, and return how many requests that took."""
    schemes = ("http", "https", "ftp", "file", "gopher", "dict", "data", "s3", "jar:http", "//")
    urls = [f"{scheme}://{host}/{path}" for scheme in schemes for path in ("a.jpg", "..;/a", "?a#b")]
    sent = 0
    with keep_asking(server) as ask:
        for url in urls:
            coded = base64.b64encode(url.encode()).decode()
            svg = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="{url}"/></svg>'.encode()
            form = b'--e\r\nContent-Disposition: form-data; name="url"\r\n\r\n' + url.encode() + b"\r\n--e--\r\n"
            asked: list[tuple[str, bytes, dict[str, str]]] = [
                ("/predict", url.encode(), {}),
                ("/predict", svg, {"Content_Type": "image/svg+xml"}),
                ("/predict", form, {"Content_Type": "multipart/form-data; boundary=e"}),
                ("/predict?url=" + urllib.parse.quote(url), photo, {}),
                ("/predict?model=" + urllib.parse.quote(url), photo, {}),
                ("/predict", photo, {"Referer": url, "Origin": url, "X_Forwarded_Host": host, "X_Original_Url": url}),
                ("/v2/models/tiny/infer", json.dumps(infer_request(data=[coded])).encode(), {}),
                ("/v2/models/tiny/infer", json.dumps(infer_request(data=[url])).encode(), {}),
            ]
            for path, body, headers in asked:
                status = ask("POST", path, body, **headers).status
                assert status < 500
                sent += 1
    return sent
