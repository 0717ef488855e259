"""Tests of edgetl/pipeline/measure.py: how artifacts are timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgetl.bench import summarise
from edgetl.bundle import Bundle
from edgetl.data import labels_of
from edgetl.errors import ParityError
from edgetl.pipeline import BuildSettings, Plan, make_plan, measure
from edgetl.pipeline.results import Answered, CompiledStage
from edgetl.records import Quiet


@pytest.mark.parametrize(
    ("seconds", "rival", "openings"),
    [(1e9, False, measure.OPENINGS), (1e9, True, measure.BESIDE_RIVAL), (-1.0, True, measure.FEWEST)],
    ids=["usually", "beside a rival", "where opening takes long"],
)
def test_sessions_are_opened_anew_for_every_turn(
    seconds: float, rival: bool, openings: int, built: Bundle, settings: BuildSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    turns: list[tuple[str, ...]] = []

    def open_written(*given: Any) -> Any:
        opened.append(given)
        return SimpleNamespace(run=len, close=lambda: None)

    def interleave(calls: Any, rounds: int, per_round: int) -> Any:
        turns.append(tuple(calls))
        return {name: summarise([1.0] * rounds * per_round) for name in calls}

    monkeypatch.setattr(measure, "open_written", open_written)
    monkeypatch.setattr(measure, "interleave", interleave)
    monkeypatch.setattr(measure, "SECONDS", seconds)
    plan = make_plan(settings, Quiet())
    artifacts = plan.compiled.read("compiled", CompiledStage).artifacts
    found = measure._latencies(plan.per_tensor if rival else plan, artifacts, Quiet())
    assert found is not None
    names = ("fp32", "int8", "rival") if rival else ("fp32", "int8")
    assert turns == [names] * openings
    assert len(opened) == len(names) * openings
    assert {name: latency.count for name, latency in found.items()} == dict.fromkeys(names, openings * measure.CALLS)


class TestBroken:
    """An engine that computes something else than the graph, as it may where that loses much."""

    @pytest.fixture
    def plan(self, built: Bundle, settings: BuildSettings, monkeypatch: pytest.MonkeyPatch) -> Plan:
        def refuse(*given: Any) -> None:
            raise ParityError("int8 on onnxruntime, cpu computes something else")

        monkeypatch.setattr(measure, "prove_quantized", refuse)
        return make_plan(settings, Quiet())

    @pytest.fixture
    def wrong(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Let the graph as ONNX defines it give another class than float for every photo; return its logits."""
        logits = np.roll(plan.floats[: len(plan.photos.held)], 1, axis=1)
        assert (plan.floats[: len(logits)].argmax(axis=1) == labels_of(plan.photos.held)).all()
        monkeypatch.setattr(measure, "answer_as_defined", lambda *given: logits)
        return logits

    def test_a_graph_that_loses_too_much_by_itself_is_refused_and_the_build_goes_on(
        self, plan: Plan, wrong: Any, lines: Any, tmp_path: Path
    ) -> None:
        measure.answered(plan, lines, tmp_path)
        np.testing.assert_array_equal(np.load(tmp_path / "int8.npy"), wrong)
        done = Answered.model_validate_json((tmp_path / "answered.json").read_bytes())
        assert (done.by, done.rungs) == ({"int8": "int8 as ONNX defines it"}, {"int8": ()})
        assert lines.said == [
            "onnxruntime on cpu computes something else than int8 as ONNX defines it, which loses too much by itself"
        ]

    def test_a_graph_that_is_inside_the_budget_stops_the_build(self, plan: Plan, tmp_path: Path) -> None:
        with pytest.raises(ParityError, match="int8 on onnxruntime, cpu computes something else"):
            measure.answered(plan, Quiet(), tmp_path)

    @pytest.mark.usefixtures("wrong")
    def test_where_float_may_not_ship_it_stops_the_build(
        self, plan: Plan, tmp_path: Path, asking: Callable[..., Plan]
    ) -> None:
        engine = plan.target.engine.model_copy(update={"precisions": ("int8",)})
        forced = asking(plan, target=plan.target.model_copy(update={"engine": engine}))
        assert forced.compiled == plan.compiled
        with pytest.raises(ParityError, match="int8 on onnxruntime, cpu computes something else"):
            measure.answered(forced, Quiet(), tmp_path)
