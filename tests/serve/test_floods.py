"""Tests of more than a server can take: slow clients, many connections, many requests."""

from __future__ import annotations

import logging
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.serve.conftest import Running, Start
from tests.serve.harm import Pulse, figure, unharmed, within
from tests.serve.load import closed_loop, open_loop, request_for, slow_photo

pytestmark = pytest.mark.alone

SLOW_CLIENTS = 200
CONNECTS = 2_000
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
    with start_server(tiny_bundle, "--queue", 16) as running:
        yield running


@pytest.mark.parametrize(("rounds", "seconds"), [(3, 2), pytest.param(1, 60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("times", [2, 5])
def test_what_is_too_much_is_refused_at_once_and_costs_the_others_nothing(
    times: int, rounds: int, seconds: int, busy: Running, tiny_photos: tuple[Path, ...]
) -> None:
    request = request_for(slow_photo())

    def capacity() -> float:
        return closed_loop(busy.port, request, 8, max(1, seconds / 4)).a_second(200)

    def counted() -> dict[int, float]:
        return {code: figure(busy, f'edgetl_requests_total{{code="{code}"}}') for code in REFUSALS}

    def flood() -> tuple[float, float]:
        """Return goodput as a share of the capacity, and the 99th percentile of how long refusals took, in ms."""
        most, before = capacity(), counted()
        load = open_loop(busy.port, request, times * most, seconds)
        after, told = counted(), load.statuses
        assert sum(told[code] for code in (200, *REFUSALS)) == load.sent, told
        assert {code: after[code] - before[code] for code in REFUSALS} == {code: told[code] for code in REFUSALS}
        assert told[503] > 0
        # Measured before and after: what this machine can do changes within a minute.
        return load.a_second(200) / statistics.mean((most, capacity())), load.percentile_ms(99, 503)

    def worse() -> float:
        """Return the worse of both, as a share of what it may be; medians of the rounds."""
        goodput, late = map(statistics.median, zip(*(flood() for _ in range(rounds)), strict=True))
        LOG.info("%d times, %d s, %d rounds: goodput %.3f, p99 %.1f ms", times, seconds, rounds, goodput, late)
        return max(GOODPUT / goodput, late / REFUSAL_MS)

    with unharmed(busy, tiny_photos[0]):
        within(1.0, worse)
