"""Tests of what Prometheus reads, parsed by its own client."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest

from tests.serve.conftest import Running, Start

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client reads and writes the figures")


FIGURE = re.compile(r"\b(?:edgetl|process)_\w+")


def figures(server: Running) -> dict[str, float]:
    """Return every sample by its name and labels."""
    text = server.ask("GET", "/metrics").body.decode()
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_answer_is_counted_once_with_its_times(
    start_server: Start, tiny_bundle: Path, tiny_photos: tuple[Path, ...]
) -> None:
    with start_server(tiny_bundle) as server:
        for photo in tiny_photos:
            server.ask("POST", "/predict", photo.read_bytes())
        server.ask("POST", "/predict", b"no photo")
        found = figures(server)
    assert found["edgetl_requests_total[('code', '200')]"] == 4
    assert found["edgetl_requests_total[('code', '400')]"] == 1
    assert found["edgetl_refused_total[('reason', 'unreadable')]"] == 1
    assert found["edgetl_request_seconds_count[]"] == 5
    for step in ("queue", "preprocess", "inference"):
        assert found[f"edgetl_{step}_seconds_count[]"] == 4
    assert found["edgetl_batch_size_sum[]"] == 4
    assert found["edgetl_degraded[('model', 'tiny')]"] == 0
    assert found["process_resident_memory_bytes[]"] > 0


def test_it_says_what_answers(server: Running) -> None:
    text = server.ask("GET", "/metrics").body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("edgetl_model_info{")]
    for label in ('model="tiny"', 'version="000000000000"', 'engine="onnxruntime"', 'precision="fp32"'):
        assert label in line


def test_the_dashboard_draws_only_figures_that_there_are(server: Running, tiny_photos: tuple[Path, ...]) -> None:
    server.ask("POST", "/predict", tiny_photos[0].read_bytes())
    board = json.loads((resources.files("edgetl.serve") / "grafana.json").read_text())
    asked = {name for panel in board["panels"] for one in panel["targets"] for name in FIGURE.findall(one["expr"])}
    text = server.ask("GET", "/metrics").body.decode()
    told = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert asked - told == set()
    assert len(asked) >= 10


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_client_can_add_a_series(count: int, server: Running) -> None:
    before = figures(server).keys()
    for index in range(count // 2):
        server.ask("GET", f"/nothing/{index}", **{f"X_{index}": "y"})
        server.ask("POST", f"/predict?model=m{index}", b"x")
    assert figures(server).keys() == before
