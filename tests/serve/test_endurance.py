"""Tests of what a server must bear for long: models replaced, being stopped, and a hundred thousand requests."""

from __future__ import annotations

import io
import json
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import Start
from tests.serve.harm import state_of, unharmed
from tests.serve.load import Load, closed_loop, open_loop, request_for, slow_photo

pytestmark = pytest.mark.alone

LABELS = {"a": ("apple", "banana", "cherry"), "b": ("ant", "bee", "cat")}
TOKEN = "e" * 32
SHARE = 0.7
# Seconds that what was sent may be on its way when a server is told to stop.
WAY = 0.1
MB_AN_HOUR = 1.0
MOST_GROWN_MB = 2.0
LOG = logging.getLogger(__name__)


@pytest.mark.parametrize("swaps", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_models_are_replaced_under_load_and_no_request_fails(
    swaps: int, start_server: Start, make_bundle: Callable[..., Any], tmp_path: Path, tiny_photos: tuple[Path, ...]
) -> None:
    def replace(letter: str) -> None:
        make_bundle(tmp_path / "sorter", build=letter * 64, labels=LABELS[letter])

    replace("a")
    (tmp_path / "token").write_text(TOKEN)
    request, ended = request_for(slow_photo(), TOKEN), threading.Event()
    loads: list[Load] = []
    with start_server(tmp_path / "sorter", "--token-file", tmp_path / "token") as server:
        rate = SHARE * closed_loop(server.port, request, 8, 3).statuses[200] / 3

        def keep_on() -> None:
            while not ended.is_set():
                loads.append(open_loop(server.port, request, rate, 2))

        loading = threading.Thread(target=keep_on)
        loading.start()
        for turn in range(swaps):
            replace("ba"[turn % 2])
            answer = server.ask(
                "POST", "/v2/repository/models/sorter/load", authorization=f"Bearer {TOKEN}"
            )  # fmt: skip
            assert answer.json["version"] == "ba"[turn % 2] * 12
        ended.set()
        loading.join()
        assert server.stop() == 0
    told = [each for load in loads for each in load.told]
    assert {each.status for each in told} == {200}
    assert len(told) == sum(load.sent for load in loads)
    answers = [json.loads(each.body) for each in told]
    versions = {letter: letter * 12 for letter in LABELS}
    assert {answer["version"] for answer in answers} == set(versions.values())
    for answer in answers:
        (letter,) = (each for each, version in versions.items() if version == answer["version"])
        assert {score["label"] for score in answer["predictions"][0]["scores"]} == set(LABELS[letter])


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_being_stopped_under_load_loses_nothing_that_was_accepted(
    times: int, start_server: Start, tiny_bundle: Path
) -> None:
    request, draw = request_for(slow_photo()), random.Random(27)
    for _ in range(times):
        with start_server(tiny_bundle) as server, ThreadPoolExecutor(1) as beside:
            loading = beside.submit(closed_loop, server.port, request, 6, 2)
            time.sleep(draw.uniform(0.5, 1.5))
            told_at = time.monotonic()
            assert server.stop() == 0
            load = loading.result()
        assert {each.status for each in load.told} <= {200, 0}
        # What broke off was sent after the server was told to stop, or was on its way: it was never accepted.
        broken = [each for each in load.told if each.status == 0]
        assert all(each.sent > told_at - WAY for each in broken), broken
        assert all(each.body == b"" for each in broken)
        assert load.statuses[200] > 6


def _enlarged(photo: Path) -> bytes:
    saved = io.BytesIO()
    with Image.open(photo) as opened:
        opened.resize((1024, 768)).save(saved, "JPEG")
    return saved.getvalue()


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_long_day_leaks_nothing(
    count: int, start_server: Start, tiny_bundle: Path, tiny_photos: tuple[Path, ...]
) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy finds the slope")
    # Of the size that cameras send, so that the requests take as long as with a network that is not tiny.
    bodies, statuses = [_enlarged(photo) for photo in tiny_photos], {}
    samples: list[tuple[float, float]] = []
    with start_server(tiny_bundle) as server, unharmed(server, tiny_photos[0]):
        done, part = 0, count // 80
        while done < count:
            load = closed_loop(server.port, request_for(bodies[done // part % len(bodies)]), 8, most=part)
            done += load.sent
            for status, times in load.statuses.items():
                statuses[status] = statuses.get(status, 0) + times
            samples.append((time.monotonic(), state_of(server, bodies[0]).resident_mb))
    assert statuses == {200: done}
    seconds, resident = zip(*samples[len(samples) // 2 :], strict=True)
    slope = stats.theilslopes(resident, seconds)[0] * 3600
    # Each of two threads may meet its largest need late: a step, which no leak is.
    grown = sum(sorted(np.diff(resident))[:-2])
    LOG.info("%d requests: %.2f MB, then %.2f MB, a slope of %.2f MB/h", done, resident[0], resident[-1], slope)
    assert slope <= MB_AN_HOUR if count >= 100_000 else grown <= MOST_GROWN_MB, resident
