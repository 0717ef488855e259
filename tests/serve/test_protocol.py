"""Tests of what a connection may do, with bytes of the test's own on loopback."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.serve.conftest import Running, Start
from tests.serve.harm import figure

pytestmark = pytest.mark.alone

QUICK = ("--receive-seconds", 1, "--connections", 8)


@pytest.fixture(scope="module")
def strict(start_server: Start, tiny_bundle: Path) -> Iterator[Running]:
    """Return a server that waits a second for a request, and takes eight connections."""
    with start_server(tiny_bundle, *QUICK) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(start_server: Start, tiny_bundle: Path) -> Iterator[Running]:
    """Return a server on which a batch waits a second to fill, and one request may wait for it."""
    words = ("--queue", 1, "--workers", 1, "--batch", 2, "--delay-ms", 1000, "--deadline-ms", 500)
    with start_server(tiny_bundle, *words) as running:
        yield running


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def read_all(client: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def head(length: int, *more: bytes) -> bytes:
    lines = [b"POST /predict HTTP/1.1", b"Host: here", b"Content-Length: %d" % length, *more]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class TestSlowClients:
    @pytest.mark.parametrize("sent", [b"", b"POST /pre", head(100)[:-2], head(100), head(100) + b"x" * 50])
    def test_a_request_that_does_not_arrive_in_time_is_closed(self, sent: bytes, strict: Running) -> None:
        with connect(strict) as client:
            client.sendall(sent)
            started = time.monotonic()
            said = read_all(client)
            passed = time.monotonic() - started
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 1 s" in said
        assert 0.8 < passed < 3

    def test_a_byte_now_and_then_buys_no_time(self, strict: Running) -> None:
        with connect(strict) as client:
            started = time.monotonic()
            try:
                for byte in head(100) + b"x" * 100:
                    client.sendall(bytes([byte]))
                    client.settimeout(0.1)
                    try:
                        if client.recv(1):
                            break
                    except TimeoutError:
                        continue
            except ConnectionError:
                pass
            passed = time.monotonic() - started
        assert passed < 3

    def test_a_quick_client_keeps_its_connection_for_as_long_as_it_asks(
        self, strict: Running, tiny_photos: tuple[Path, ...]
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)
        body, end, count = tiny_photos[0].read_bytes(), time.monotonic() + 2.5, 0
        while time.monotonic() < end:
            connection.request("POST", "/predict", body)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            count += 1
        connection.close()
        assert count > 10


class TestBounds:
    def test_headers_are_bounded(self, strict: Running) -> None:
        with connect(strict) as client:
            client.sendall(b"GET /v2 HTTP/1.1\r\nHost: here\r\n" + b"X-Long: " + b"x" * 40_000)
            assert read_all(client).startswith(b"HTTP/1.1 431 ")

    def test_one_connection_too_many_is_told_so(self, strict: Running) -> None:
        held = [connect(strict) for _ in range(8)]
        try:
            with connect(strict) as client:
                said = read_all(client)
        finally:
            for each in held:
                each.close()
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"too many connections are open" in said

    @pytest.mark.parametrize(
        "sent",
        [
            head(5, b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
            head(5, b"Content-Length: 6") + b"hello",
            b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: -5\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 5x\r\n\r\nhello",
            b"POST /predict HTTP/1.1\r\nHost : here\r\nContent-Length: 5\r\n\r\nhello",
            b"POST /predict HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ],
    )
    def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(
        self, sent: bytes, strict: Running
    ) -> None:
        with connect(strict) as client:
            client.sendall(sent + b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
            said = read_all(client)
        assert said.startswith(b"HTTP/1.1 400 ")
        assert said.count(b"HTTP/1.1 ") == 1

    def test_requests_that_come_together_are_answered_in_order(
        self, strict: Running, tiny_photos: tuple[Path, ...]
    ) -> None:
        body = tiny_photos[0].read_bytes()
        with connect(strict) as client:
            client.sendall(head(len(body)) + body + b"GET /v2 HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            said = read_all(client)
        first, second = said.split(b"HTTP/1.1 200 OK")[1:]
        assert b'"predictions"' in first
        assert b'"extensions"' in second


class TestConnections:
    """What a client can do to keep one, or to spoil what it asked on it before."""

    def test_one_on_which_nothing_more_is_asked_is_closed(self, start_server: Start, tiny_bundle: Path) -> None:
        health = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"
        asked = [
            [health],
            [health, b"\r\n"],
            [head(10).replace(b"/predict", b"/nothing"), b"x" * 5, b"x" * 5],
            [health.replace(b"live HTTP", b"live?" + b"x" * 9 + b" HTTP"), b"\r\n\r\n"],
        ]
        with start_server(tiny_bundle, "--receive-seconds", 3) as server, ExitStack() as held:
            clients = []
            for parts in asked:
                clients.append(held.enter_context(connect(server)))
                for part in parts:
                    clients[-1].sendall(part)
                    time.sleep(0.1)  # so that each comes alone
            started = time.monotonic()
            for client in clients:
                assert read_all(client).startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 "))
            assert time.monotonic() - started < 8

    def test_one_that_is_not_read_is_closed(self, strict: Running, tiny_photos: tuple[Path, ...]) -> None:
        many = 5_000 * b"GET /page/page.js HTTP/1.1\r\nHost: here\r\n\r\n"
        clients = [connect(strict) for _ in range(8)]
        for client in clients:
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.send(many)
        end = time.monotonic() + 15
        while True:
            try:
                if strict.ask("POST", "/predict", tiny_photos[0].read_bytes()).status == 200:
                    break
            except OSError:
                pass
            assert time.monotonic() < end
            time.sleep(0.1)
        for client in clients:
            client.close()

    @pytest.mark.parametrize("after", [b"\x16\x03 no request \r\n\r\n", b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 40_000])
    def test_what_is_asked_before_something_bad_is_answered(
        self, after: bytes, narrow: Running, tiny_photos: tuple[Path, ...]
    ) -> None:
        body = tiny_photos[0].read_bytes()
        with connect(narrow) as client:
            client.sendall(head(len(body)) + body)
            time.sleep(0.2)  # it waits for its batch to fill
            client.sendall(after)
            said = read_all(client)
        assert said.startswith(b"HTTP/1.1 504 ")  # it waited in vain, and longer than it may
        assert said.count(b"HTTP/1.1 ") == 1

    def test_a_body_that_does_not_come_is_counted_once(self, start_server: Start, tiny_bundle: Path) -> None:
        with start_server(tiny_bundle, *QUICK) as server:
            with connect(server) as client:
                client.sendall(head(100) + b"x" * 50)
                assert read_all(client).startswith(b"HTTP/1.1 408 ")
            assert figure(server, 'edgetl_requests_total{code="408"}') == 1
            assert figure(server, 'edgetl_refused_total{reason="too_slow"}') == 1
            assert figure(server, 'edgetl_refused_total{reason="hung_up"}') == 0
            assert figure(server, 'edgetl_requests_total{code="400"}') == 0


class TestFullQueue:
    def test_one_model_that_is_full_does_not_keep_another_from_answering(
        self, start_server: Start, tiny_bundle: Path, tiny_photos: tuple[Path, ...]
    ) -> None:
        body = tiny_photos[0].read_bytes()
        words = ("--queue", 1, "--workers", 1, "--batch", 3, "--delay-ms", 1000)
        with start_server(f"one={tiny_bundle}", f"two={tiny_bundle}", *words) as server:
            clients = [connect(server) for _ in range(8)]
            for client in clients:
                client.sendall(head(len(body)) + body)
            assert server.ask("POST", "/predict?model=two", body).status == 200
            assert 503 in {read_answer(client)[0] for client in clients}
            for client in clients:
                client.close()

    def test_more_than_may_wait_are_refused_at_once_and_their_connections_live_on(
        self, narrow: Running, tiny_photos: tuple[Path, ...]
    ) -> None:
        body = tiny_photos[0].read_bytes()
        clients = [connect(narrow) for _ in range(12)]
        for client in clients:
            client.sendall(head(len(body)) + body)
        told = [read_answer(client) for client in clients]
        refused = [status for status, _ in told if status == 503]
        assert {status for status, _ in told} <= {200, 503, 504}
        assert refused
        for client, (status, _) in zip(clients, told, strict=True):
            if status == 503:
                client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
                assert read_answer(client) == (200, {"live": True})
            client.close()


def read_answer(client: socket.socket) -> tuple[int, object]:
    """Return status and JSON of the next answer on a connection."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("path", ["/predict", "/v2/models/tiny/infer"])
def test_a_client_that_hangs_up_amid_a_request_costs_nothing(
    path: str, server: Running, tiny_photos: tuple[Path, ...]
) -> None:
    for _ in range(20):
        with connect(server) as client:
            client.sendall(head(5000).replace(b"/predict", path.encode()) + b"x" * 100)
    assert server.ask("POST", "/predict", tiny_photos[0].read_bytes()).status == 200
    assert b'edgetl_requests_total{code="500"} 0.0' in server.ask("GET", "/metrics").body


def test_a_client_that_has_sent_all_may_say_so_and_is_answered(server: Running, tiny_photos: tuple[Path, ...]) -> None:
    body = tiny_photos[0].read_bytes()
    with connect(server) as client:
        client.sendall(2 * (head(len(body)) + body))
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).count(b"HTTP/1.1 200 OK") == 2


def test_a_body_that_took_its_time_has_not_waited_in_the_queue(
    start_server: Start, tiny_bundle: Path, tiny_photos: tuple[Path, ...]
) -> None:
    body = tiny_photos[0].read_bytes()
    with start_server(tiny_bundle, "--deadline-ms", 2000) as server, connect(server) as client:
        client.sendall(head(len(body)) + body[:100])
        client.settimeout(2.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        client.sendall(body[100:])
        assert read_answer(client)[0] == 200
