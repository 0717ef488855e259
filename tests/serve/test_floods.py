"""Tests of more than a server can take: slow clients, many connections, many requests."""

from __future__ import annotations

import logging
import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.serve.conftest import Running, Start
from tests.serve.harm import Pulse, figure, unharmed, within
from tests.serve.load import Load, closed_loop, open_loop, request_for, slow_photo

pytestmark = pytest.mark.alone

SLOW_CLIENTS = 200
CONNECTS = 2_000
QUEUE = 16
SECONDS = 60
GOODPUT = 0.9
REFUSAL_MS = 20
REFUSALS = (503, 504)
LOG = logging.getLogger(__name__)


def _drip(client: socket.socket, part: bytes) -> bool:
    """Send a little more of a request, and say whether the server still waits for the rest."""
    try:
        client.send(part, socket.MSG_DONTWAIT)
        told = client.recv(65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    assert told == b"" or told.startswith(b"HTTP/1.1 408 ")
    return False


@pytest.mark.parametrize("seconds", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_slow_clients_are_closed_and_keep_nobody_out(
    seconds: int, start_server: Start, tiny_bundle: Path, tiny_photos: tuple[Path, ...]
) -> None:
    with start_server(tiny_bundle, "--receive-seconds", seconds) as server, unharmed(server, tiny_photos[0]):
        request = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 5000\r\n\r\n" + bytes(5000)
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(SLOW_CLIENTS)]
        started = time.monotonic()
        waiting = set(range(SLOW_CLIENTS))
        with Pulse(server) as pulse:
            for place in range(seconds + 2):
                time.sleep(max(0.0, started + place - time.monotonic()))
                waiting -= {index for index in waiting if not _drip(clients[index], request[place : place + 1])}
        assert waiting == set()
        assert pulse.percentile_ms(99.9) < 1000  # which fails where one was not answered
        assert figure(server, 'edgetl_refused_total{reason="too_slow"}') == SLOW_CLIENTS
        for client in clients:
            client.close()


def test_a_flood_of_connections_is_over_when_it_is_over(
    start_server: Start, tiny_bundle: Path, tiny_photos: tuple[Path, ...]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTS + 200:
        pytest.skip(f"needs {CONNECTS} open files, and this machine allows {hard}")
    # The server is started before, so that it has to do with what it is usually given.
    with start_server(tiny_bundle) as server, unharmed(server, tiny_photos[0]), ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CONNECTS + 200), hard))
        with Pulse(server) as pulse:  # who was there before is answered all the time
            clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(CONNECTS)]
            time.sleep(1)
        assert pulse.percentile_ms(99) < 1000
        over = time.monotonic()
        for client in clients:
            client.close()
        body = tiny_photos[0].read_bytes()
        while True:
            try:
                if server.ask("POST", "/predict", body).status == 200:
                    break
            except OSError:
                time.sleep(0.01)
        assert time.monotonic() - over <= 5
        assert figure(server, 'edgetl_refused_total{reason="connections"}') >= CONNECTS - 600


@pytest.fixture(scope="module")
def busy(start_server: Start, tiny_bundle: Path) -> Iterator[Running]:
    """Return a server that is asked more than it can answer."""
    with start_server(tiny_bundle, "--queue", QUEUE) as running:
        yield running


def _counted(server: Running, flood: Callable[[], Load]) -> Load:
    """Return what came of a load of too much: each request was answered, and counted as what it was told."""

    def counted() -> dict[int, float]:
        return {code: figure(server, f'edgetl_requests_total{{code="{code}"}}') for code in REFUSALS}

    before, load, after = counted(), flood(), counted()
    told = load.statuses
    assert sum(told[code] for code in (200, *REFUSALS)) == load.sent, told
    assert {code: after[code] - before[code] for code in REFUSALS} == {code: told[code] for code in REFUSALS}
    assert told[503] > 0
    return load


def test_what_is_too_much_is_refused_before_the_others_are_answered(
    busy: Running, tiny_photos: tuple[Path, ...]
) -> None:
    request = request_for(slow_photo())
    with unharmed(busy, tiny_photos[0]):
        load = _counted(busy, partial(closed_loop, busy.port, request, 4 * QUEUE, 2))
    assert load.statuses[200] > QUEUE
    assert load.percentile_ms(50, 503) < load.percentile_ms(50, 200)


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, 5])
def test_what_is_too_much_is_refused_at_once_and_costs_the_others_nothing(
    times: int, busy: Running, tiny_photos: tuple[Path, ...]
) -> None:
    request = request_for(slow_photo())

    def capacity() -> float:
        return closed_loop(busy.port, request, 8, SECONDS / 4).a_second(200)

    def worse() -> float:
        """Return the worse of goodput and of how long refusals took, each as a share of what it may be."""
        most = capacity()
        load = _counted(busy, partial(open_loop, busy.port, request, times * most, SECONDS))
        # Measured before and after: what this machine can do changes within a minute.
        goodput, late = load.a_second(200) / statistics.mean((most, capacity())), load.percentile_ms(99, 503)
        LOG.info("%d times for %d s: goodput %.3f, p99 of refusals %.1f ms", times, SECONDS, goodput, late)
        return max(GOODPUT / goodput, late / REFUSAL_MS)

    with unharmed(busy, tiny_photos[0]):
        within(1.0, worse)
