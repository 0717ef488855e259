"""What must hold of a server after every attack, and how it fares meanwhile."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.serve.conftest import Running

# Runs in the server before anything else: keeps each file that it opens, and how.
AUDIT = """
import os, sys
log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(event, args):
    if event == "open" and not isinstance(args[0], int):
        kind = "w" if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "r"
        os.write(log, f"{kind} {os.fsdecode(args[0])!r}\\n".encode())

sys.addaudithook(note)
"""
MB = 1 << 20
TRIES = 4
# Of this machine's time, what others may take before a figure is measured again; and how long to wait for that.
STOLEN, CALM_SECONDS, LOOK_SECONDS = 0.02, 20.0, 1.0
MOST_MB, MOST_FILES, MOST_SECONDS = 64, 5, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """How a server fares: what it answers a photo, what it holds, and how often it failed."""

    predictions: bytes
    resident_mb: float
    files: int
    failures: float


def state_of(server: Running, photo: bytes) -> State:
    answer = server.ask("POST", "/predict", photo)
    assert answer.status == 200, answer.body
    of = Path("/proc") / str(server.process.pid)
    pages = int((of / "statm").read_text().split()[1])
    return State(
        predictions=answer.body.partition(b',"time_ms"')[0],
        resident_mb=pages * os.sysconf("SC_PAGE_SIZE") / MB,
        files=len(list((of / "fd").iterdir())),
        failures=figure(server, 'edgetl_requests_total{code="500"}'),
    )


def figure(server: Running, name: str) -> float:
    """Return one figure of /metrics."""
    (line,) = (
        each
        for each in server.ask("GET", "/metrics").body.decode().splitlines()
        if each.rpartition(" ")[0] == name
    )  # fmt: skip
    return float(line.rpartition(" ")[2])


@contextmanager
def unharmed(server: Running, photo: Path) -> Iterator[State]:
    """Let an attack run, and check after it that the server is as before."""
    body = photo.read_bytes()
    before = state_of(server, body)
    yield before
    assert server.process.poll() is None
    started = time.monotonic()
    assert server.ask("GET", "/v2/health/ready").status == 200
    assert time.monotonic() - started <= MOST_SECONDS
    end = time.monotonic() + MOST_SECONDS
    while (after := state_of(server, body)).files > before.files + MOST_FILES and time.monotonic() < end:
        time.sleep(0.05)  # what was closed here is closed there in a moment
    assert after.files <= before.files + MOST_FILES
    assert after.resident_mb <= before.resident_mb + MOST_MB
    assert after.predictions == before.predictions
    assert after.failures == before.failures


class Pulse:
    """Asks a server for its health over and over, on one connection, until the block ends."""

    def __init__(self, server: Running, pause: float = 0.01) -> None:
        self._server = server
        self._pause = pause
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.seconds: list[float] = []
        self.failed: list[object] = []

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def percentile_ms(self, share: float) -> float:
        """Return how long a share of the answers took at the most."""
        assert not self.failed, self.failed[:3]
        return 1000 * float(np.percentile(self.seconds, share))

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=10)
        while not self._ended.wait(self._pause):
            started = time.monotonic()
            try:
                connection.request("GET", "/v2/health/live")
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(error)
                connection.close()
                continue
            self.seconds.append(time.monotonic() - started)
            if answer.status != 200:
                self.failed.append(answer.status)
        connection.close()


def within(most: float, measure: Callable[[], float]) -> None:
    """Check a figure that others on this machine may spoil: what is too much by itself is so each time."""
    found: list[float] = []
    while len(found) < TRIES:
        found.append(measure())
        if found[-1] <= most:
            return
        _await_calm()
    raise AssertionError(f"{found} are all over {most}")


def _await_calm() -> None:
    """Wait until others take next to nothing of this machine, or long enough."""
    end = time.monotonic() + CALM_SECONDS
    while time.monotonic() < end:
        before = _stolen()
        time.sleep(LOOK_SECONDS)
        after = _stolen()
        if after[0] - before[0] <= STOLEN * (after[1] - before[1]):
            return


def _stolen() -> tuple[int, int]:
    """Return the time that others took of this machine's cores, and all time, in ticks; zeros where nothing says so."""
    try:
        times = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0, 0
    return times[7], sum(times)


def hold_loop(server: Running, attempt: Callable[[], object]) -> float:
    """Return the longest that health was not answered while something was tried, in milliseconds."""
    with Pulse(server, pause=0.0) as pulse:
        attempt()
    assert not pulse.failed, pulse.failed[:3]
    return pulse.percentile_ms(100) if pulse.seconds else 0.0
