"""Compare `edgetl serve` with other servers of the same INT8 classifier, and with the bare Predictor, in one run.

    python benchmarks/serve_vs_peers.py BUNDLE [--python litserve=VENV/bin/python ...] [--rounds 5] [--seconds 5]

Everything runs on this machine, the load too: wrk on loopback, one thread. Each round starts every server anew, in
turn, warms it, and sends one photo over and over, then a hundred in turn, on 1, 8 and 32 connections; the bare
Predictor answers the same photos on as many threads as there are cores, which is the limit. Medians over rounds count.
"""

from __future__ import annotations

import argparse
import http.client
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
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def running(command: list[str], port: int, photo: bytes, form: bool) -> Iterator[float]:
    """Give the seconds from a server's start to its first answer; the server is ended after."""
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            while not answers(port, photo, form):
                if process.poll() is not None or time.monotonic() > started + 120:
                    log.seek(0)
                    raise SystemExit(f"{command} does not answer: {log.read().decode()[-2000:]}")
            yield time.monotonic() - started
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


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
    os.environ.update(PEER_MODEL=str(model), PEER_LABELS=str(labels), BENTOML_DO_NOT_TRACK="True")
    peers = Path(__file__).parent / "serve_peers"
    servers = {"edgetl": [sys.executable, "-m", "edgetl", "serve", str(options.bundle), "--port"]} | {
        name: [python, str(peers / f"by_{name}.py")] for name, python in {"fastapi": sys.executable, **pythons}.items()
    }
    cores = os.cpu_count() or 1
    samples: dict[str, dict[str, list[dict[str, float]]]] = {}
    starts: dict[str, list[float]] = {}
    memory = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = photos_for(folder)
        first = photos["one"][0].read_bytes()
        for number in range(options.rounds):
            for name, command in servers.items():
                port, form = free_port(), name != "edgetl"
                with running([*command, str(port)], port, first, form) as seconds:
                    starts.setdefault(name, []).append(seconds)
                    load(port, photos["one"], 8, WARM_SECONDS, form, folder)
                    for kind, sent in photos.items():
                        for connections in CONNECTIONS:
                            told = load(port, sent, connections, options.seconds, form, folder)
                            samples.setdefault(f"{kind}, {connections}", {}).setdefault(name, []).append(told)
                    if name == "edgetl":
                        memory.append(resident_mb(port))
            for kind, sent in photos.items():
                limit = in_process(options.bundle, sent, cores, options.seconds)
                alone = in_process(options.bundle, sent, 1, options.seconds)
                for connections in CONNECTIONS:
                    bare = alone if connections == 1 else limit
                    samples[f"{kind}, {connections}"].setdefault("in-process", []).append(bare)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    figures = {
        row: {name: {key: spread([one[key] for one in each]) for key in each[0]} for name, each in of.items()}
        for row, of in samples.items()
    }
    print(table(figures))
    save_result(
        "serve_vs_peers",
        {
            "figures": figures,
            "start_seconds": {name: spread(each) for name, each in starts.items()},
            "resident_mb": spread(memory),
            "samples": samples,
        },
        shown=False,
    )


def table(figures: dict[str, Any]) -> str:
    """Return the medians as a Markdown table."""
    lines = [
        "| photos, connections | who | a second | of the limit | p50 ms | p99 ms | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, of in figures.items():
        most = of["in-process"]["a_second"]["median"]
        for name, each in of.items():
            told = {key: value["median"] for key, value in each.items()}
            p99 = f"{told['p99_ms']:.2f}" if "p99_ms" in told else ""
            bad = f"{told['bad']:.0f}" if "bad" in told else ""
            rate = f"{told['a_second']:.0f} | {told['a_second'] / most:.2f}"
            lines.append(f"| {row} | {name} | {rate} | {told['p50_ms']:.2f} | {p99} | {bad} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
