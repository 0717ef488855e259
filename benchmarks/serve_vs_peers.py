"""Compare `edgetl serve` with other servers of the same INT8 classifier, and with the bare Predictor, in one run.

    python benchmarks/serve_vs_peers.py BUNDLE [--python litserve=VENV/bin/python ...] [--rounds 5] [--seconds 5]

Everything runs on this machine, the load too: wrk on loopback, one thread. Each round starts every server anew and
warms it, and then sends one photo over and over, and a hundred in turn, on 1, 8 and 32 connections, to one server after
the other while those that are not measured are stopped; the bare Predictor answers the same photos on as many threads
as there are cores, which is the limit. `bare` is the least that a server of this kind can do. Medians over rounds
count, of ratios within a round. How much later an answer comes over HTTP than from the Predictor is measured in turns,
twenty photos each: what a machine does changes by more than that between windows.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from recording import assets, save_result, spread

from edgetl import Predictor
from edgetl.bundle import Bundle

CONNECTIONS = (1, 8, 32)
SIZE = (376, 263)
PHOTOS = 100
WARM_SECONDS = 2
WAKE_SECONDS = 0.3
TURNS, A_TURN = 40, 20
TURNED = ("edgetl", "bare")
# A window in which more of the machine was taken by others is measured again, so many times at the most.
MOST_STOLEN, TRIES = 0.02, 4
# Sends the photos of a folder in turn, as they are or in a form, and prints one line of JSON in the end.
SCRIPT = """
local names, form = {%(names)s}, %(form)s
local requests, turn = {}, 0
function init()
  for _, name in ipairs(names) do
    local file = io.open(name, "rb")
    local body = file:read("*a")
    file:close()
    local headers = {["Content-Type"] = "image/jpeg"}
    if form then
      headers["Content-Type"] = "multipart/form-data; boundary=edge"
      body = "--edge\\r\\nContent-Disposition: form-data; name=\\"file\\"; filename=\\"a.jpg\\"\\r\\n"
        .. "Content-Type: image/jpeg\\r\\n\\r\\n" .. body .. "\\r\\n--edge--\\r\\n"
    end
    requests[#requests + 1] = wrk.format("POST", "/predict", headers, body)
  end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
function done(summary, latency, all)
  local errors = summary.errors
  local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format('{"a_second": %%.2f, "p50_ms": %%.3f, "p99_ms": %%.3f, "count": %%d, "bad": %%d}',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.requests, bad))
end
"""


def photos_for(folder: Path) -> dict[str, list[Path]]:
    """Return what is sent: one small photo, and a hundred of TrashNet's."""
    found = sorted((assets() / "data" / "trashnet").rglob("*.jpg"))
    some = found[:: len(found) // PHOTOS][:PHOTOS]
    with Image.open(some[0]) as photo:
        photo.resize(SIZE).save(folder / "one.jpg", quality=90)
    return {"one": [folder / "one.jpg"], "set": some}


def load(port: int, photos: list[Path], connections: int, seconds: int, form: bool, folder: Path) -> dict[str, float]:
    """Return what wrk measured."""
    names = ", ".join(f'"{path}"' for path in photos)
    script = folder / "send.lua"
    script.write_text(SCRIPT % {"names": names, "form": "true" if form else "false"})
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    ran = subprocess.run([*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(ran.stdout.strip().splitlines()[-1])
    return told


def in_process(bundle: Path, photos: list[Path], threads: int, seconds: float) -> dict[str, float]:
    """Return how many photos a second the bare Predictor answers on so many threads, and how long each takes."""
    contents = [path.read_bytes() for path in photos]
    samples: list[list[float]] = [[] for _ in range(threads)]
    with Predictor.open(bundle, threads=1) as predictor:

        def work(index: int, end: float, kept: list[float]) -> None:
            turn = index
            while (start := time.perf_counter()) < end:
                predictor.predict(contents[turn % len(contents)])
                kept.append(1000 * (time.perf_counter() - start))
                turn += threads

        for lasting in (seconds / 5, seconds):  # the first warms
            for kept in samples:
                kept.clear()
            end = time.perf_counter() + lasting
            running = [threading.Thread(target=work, args=(index, end, samples[index])) for index in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
    every = [sample for kept in samples for sample in kept]
    return {"a_second": len(every) / seconds, "p50_ms": statistics.median(every), "count": len(every)}


def in_turns(bundle: Path, photos: list[Path], ports: dict[str, int]) -> dict[str, float]:
    """Return the median of how long the Predictor and each server take for a photo, in ms; each gets some in turn."""
    contents = [path.read_bytes() for path in photos]
    samples: dict[str, list[float]] = {}
    with Predictor.open(bundle, threads=1) as predictor, ExitStack() as stack:
        asked: dict[str, Callable[[bytes], object]] = {"in-process": predictor.predict}
        for name, port in ports.items():
            asked[name] = partial(ask, stack.enter_context(socket.create_connection(("127.0.0.1", port))))
        names = list(asked)
        for turn in range(TURNS):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                for index in range(turn * A_TURN, (turn + 1) * A_TURN):
                    content = contents[index % len(contents)]
                    start = time.perf_counter()
                    asked[name](content)
                    samples.setdefault(name, []).append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in samples.items()}


def ask(connection: socket.socket, photo: bytes) -> None:
    """Send a photo, and wait for all of the answer."""
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n"
    connection.sendall(head.encode() + photo)
    told, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    if not told.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"no answer: {told.decode()}")
    missing = int(told.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(body)
    while missing > 0:
        missing -= len(connection.recv(65536))


class Server:
    """A server that was started, and is stopped in its tracks while another is measured."""

    def __init__(self, command: list[str], photo: bytes, form: bool) -> None:
        self.port, self.form = free_port(), form
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in `end`
        started = time.monotonic()
        self._process = subprocess.Popen(
            [*command, str(self.port)], stdout=self._log, stderr=self._log, start_new_session=True
        )
        while not answers(self.port, photo, form):
            if self._process.poll() is not None or time.monotonic() > started + 120:
                self._log.seek(0)
                said = self._log.read().decode()[-2000:]
                self.end()
                raise SystemExit(f"{command} does not answer: {said}")
        self.start_seconds = time.monotonic() - started

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run until the block ends."""
        os.killpg(self._process.pid, signal.SIGCONT)
        time.sleep(WAKE_SECONDS)
        yield
        os.killpg(self._process.pid, signal.SIGSTOP)

    def end(self) -> None:
        """End it and all that it has started."""
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, signal.SIGCONT)
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()


def stolen() -> tuple[int, int]:
    """Return the time that other machines took of this one's cores, and all time, in ticks."""
    times = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return times[7], sum(times)


def undisturbed(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what was measured while next to nothing of this machine was taken, or the last of some tries."""
    for _ in range(TRIES):
        before = stolen()
        told = measure()
        after = stolen()
        told["stolen"] = (after[0] - before[0]) / max(1, after[1] - before[1])
        if told["stolen"] <= MOST_STOLEN:
            break
    return told


def answers(port: int, photo: bytes, form: bool) -> bool:
    """Say whether a server answers a photo by now."""
    body, kind = photo, "image/jpeg"
    if form:
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        body, kind = head + photo + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/predict", body, {"Content-Type": kind})
        return connection.getresponse().status == 200
    except OSError:
        time.sleep(0.01)
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def resident_mb(port: int) -> float:
    """Return what edgetl's process holds, by its own figures."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (line,) = (each for each in text.splitlines() if each.startswith("process_resident_memory_bytes "))
    return float(line.split()[1]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    pythons = dict(each.split("=", 1) for each in options.python)
    bundle = Bundle.open(options.bundle)
    model, labels = bundle.folder / bundle.manifest.artifact.path, bundle.folder / "labels.txt"
    os.environ.update(
        PEER_MODEL=str(model), PEER_LABELS=str(labels), PEER_BUNDLE=str(options.bundle), BENTOML_DO_NOT_TRACK="True"
    )
    peers = Path(__file__).parent / "serve_peers"
    servers = {"edgetl": [sys.executable, "-m", "edgetl", "serve", str(options.bundle), "--port"]} | {
        name: [python, str(peers / f"by_{name}.py")]
        for name, python in {"bare": sys.executable, "fastapi": sys.executable, **pythons}.items()
    }
    cores = os.cpu_count() or 1
    samples: dict[str, dict[str, list[dict[str, float]]]] = {}
    starts: dict[str, list[float]] = {}
    turns: dict[str, list[dict[str, float]]] = {}
    memory = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = photos_for(folder)
        first = photos["one"][0].read_bytes()
        for number in range(options.rounds):
            up: dict[str, Server] = {}
            try:
                for name, command in servers.items():
                    up[name] = Server(command, first, form=name not in TURNED)
                    starts.setdefault(name, []).append(up[name].start_seconds)
                    load(up[name].port, photos["one"], 8, WARM_SECONDS, up[name].form, folder)
                    with up[name].awake():
                        pass
                for kind, connections in itertools.product(photos, CONNECTIONS):
                    row = samples.setdefault(f"{kind}, {connections}", {})
                    names = ["in-process", *up]
                    for name in names[number % len(names) :] + names[: number % len(names)]:
                        threads = 1 if connections == 1 else cores
                        measure = partial(in_process, options.bundle, photos[kind], threads, options.seconds)
                        if name in up:
                            server = up[name]
                            measure = partial(
                                load, server.port, photos[kind], connections, options.seconds, server.form, folder
                            )
                        with up[name].awake() if name in up else nullcontext():
                            row.setdefault(name, []).append(undisturbed(measure))
                with ExitStack() as stack:
                    for name in TURNED:
                        stack.enter_context(up[name].awake())
                    for kind in photos:
                        told = in_turns(options.bundle, photos[kind], {name: up[name].port for name in TURNED})
                        turns.setdefault(kind, []).append(told)
                with up["edgetl"].awake():
                    memory.append(resident_mb(up["edgetl"].port))
            finally:
                for server in up.values():
                    server.end()
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    figures = {
        row: {name: {key: spread([one[key] for one in each]) for key in each[0]} for name, each in of.items()}
        for row, of in samples.items()
    }
    against = {row: compare(of) for row, of in samples.items()}
    later = {
        kind: {name: spread([one[name] - one["in-process"] for one in each]) for name in TURNED}
        for kind, each in turns.items()
    }
    print(table(figures, against))
    for kind, of in later.items():
        print(f"{kind}, in turns: " + ", ".join(f"{name} {each['median']:+.2f} ms" for name, each in of.items()))
    save_result(
        "serve_vs_peers",
        {
            "figures": figures,
            "against": against,
            "later_in_turns_ms": later,
            "start_seconds": {name: spread(each) for name, each in starts.items()},
            "resident_mb": spread(memory),
            "samples": samples,
            "in_turns_p50_ms": turns,
        },
        shown=False,
    )


def compare(of: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return how many times as many photos edgetl answers as each other within a round."""
    against = {}
    for name, each in of.items():
        pairs = list(zip(of["edgetl"], each, strict=True))
        against[name] = {
            "times": statistics.median(ours["a_second"] / theirs["a_second"] for ours, theirs in pairs),
        }
    return against


def table(figures: dict[str, Any], against: dict[str, Any]) -> str:
    """Return the medians as a Markdown table."""
    lines = [
        "| photos, connections | who | a second | edgetl answers | p50 ms | p99 ms | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, of in figures.items():
        for name, each in of.items():
            told = {key: value["median"] for key, value in each.items()}
            p99 = f"{told['p99_ms']:.2f}" if "p99_ms" in told else ""
            bad = f"{told['bad']:.0f}" if "bad" in told else ""
            rate = f"{told['a_second']:.0f} | {against[row][name]['times']:.2f} times"
            lines.append(f"| {row} | {name} | {rate} | {told['p50_ms']:.2f} | {p99} | {bad} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
