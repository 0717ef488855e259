"""Tests of edgetl/quantize/ranges.py and of its observers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgetl.errors import CalibrationError
from edgetl.quantize import calibrate, ranges
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.quantize.observers import BINS, Extremes, Histogram, Histograms
from edgetl.recipe import CalibrationRecipe, load_recipe, recipe_names
from edgetl.records import FloatArray
from tests.quantize.test_by_onnxruntime import batches, network


def pair(low: float, high: float) -> FloatArray:
    return np.array([low, high], dtype=np.float32)


def seen(method: str, *values: FloatArray) -> tuple[float, float]:
    """Return the range that a histogram's method chooses after looking at these values, a batch each."""
    observer = Histograms(method)
    for each in values:
        observer.observe({"one": each})
        observer.end_batch()
    return observer.ranges()["one"]


class TestExtremes:
    def test_the_whole_range_holds_every_batch(self) -> None:
        observer = Extremes(averaged=False)
        for low, high in ((-1, 2), (-3, 1)):
            observer.observe({"one": pair(low, high)})
            observer.end_batch()
        assert observer.ranges() == {"one": (-3.0, 2.0)}

    def test_the_average_is_over_batches_each_of_which_is_looked_at_whole(self) -> None:
        observer = Extremes(averaged=True)
        for parts in (((-1, 2), (-4, 1)), ((-2, 6),)):
            for low, high in parts:
                observer.observe({"one": pair(low, high)})
            observer.end_batch()
        assert observer.ranges() == {"one": (-3.0, 4.0)}


class TestHistogram:
    def test_it_counts_as_numpy_does(self) -> None:
        values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
        found = Histogram()
        found.add(values)
        expected, _ = np.histogram(values, BINS, range=(-found.reach, found.reach))
        assert int(found.counts.sum()) == values.size
        # Values on a limit may fall to either side.
        assert np.abs(np.cumsum(found.counts) - np.cumsum(expected)).max() <= 3

    def test_what_reaches_further_doubles_the_reach_and_keeps_every_count(self) -> None:
        found = Histogram()
        found.add(np.full(8, 1.0, dtype=np.float32))
        found.add(np.array([-5.0, 0.5], dtype=np.float32))
        assert found.reach == 8.0
        assert len(found.counts) == BINS
        occupied = {float(found.edges[place]): int(found.counts[place]) for place in np.flatnonzero(found.counts)}
        assert occupied == {-5.0: 1, 0.5: 1, 1.0 - 16 / BINS: 8}
        assert (found.low, found.high) == (-5.0, 1.0)

    def test_zeros_that_come_before_anything_else_stay_zeros(self) -> None:
        found = Histogram()
        found.add(np.zeros(5, dtype=np.float32))
        found.add(np.array([2.0], dtype=np.float32))
        assert int(found.counts[BINS // 2]) == 5

    def test_a_first_batch_of_tiny_values_costs_no_memory_later(self) -> None:
        found = Histogram()
        found.add(np.full(4, 1e-9, dtype=np.float32))
        found.add(np.full(4, 1e9, dtype=np.float32))
        assert found.counts.shape == (BINS,)
        assert int(found.counts.sum()) == 8

    def test_values_that_are_nearly_nothing_are_counted_too(self) -> None:
        found = Histogram()
        found.add(np.array([1e-39, 0.0, -1e-38], dtype=np.float32))
        assert int(found.counts.sum()) == 3


class TestHistograms:
    def test_percentile_leaves_the_rarest_out(self) -> None:
        values = np.random.default_rng(0).uniform(-1, 1, 1_000_000).astype(np.float32)
        low, high = seen("percentile", np.append(values, np.float32(50)))
        assert low == pytest.approx(-1, abs=0.05)
        assert high == pytest.approx(1, abs=0.1)

    def test_entropy_cuts_a_long_tail(self) -> None:
        values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
        low, high = seen("entropy", np.append(values, np.float32(200)))
        assert -8 < low < -2
        assert 2 < high < 100

    def test_entropy_keeps_values_of_which_none_is_near_zero(self) -> None:
        values = np.random.default_rng(0).uniform(-5, -2, 30_000).astype(np.float32)
        assert seen("entropy", values) == (values.min(), values.max())

    @pytest.mark.parametrize("method", ["percentile", "entropy"])
    def test_what_is_always_zero_has_the_range_zero(self, method: str) -> None:
        assert seen(method, np.zeros(100, dtype=np.float32)) == (0.0, 0.0)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused(self, bad: float) -> None:
        with pytest.raises(CalibrationError, match="activations one have no range: some are not finite"):
            seen("percentile", np.array([0.0, bad], dtype=np.float32))


@pytest.mark.parametrize("recipe", [load_recipe(name) for name in recipe_names()], ids=lambda each: each.name)
def test_how_much_is_looked_at_at_once_changes_nothing(
    recipe: CalibrationRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = calibrate(network(), batches(), recipe)
    # One image at a time, and whole tensors in several groups.
    monkeypatch.setattr(ranges, "AT_ONCE", 5000)
    parts = calibrate(network(), batches(), recipe)
    assert parts.ranges.keys() == whole.ranges.keys()
    for name, expected in whole.ranges.items():
        assert parts.ranges[name] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for name, means in whole.means.items():
        assert parts.means[name] == pytest.approx(means, rel=1e-4, abs=1e-6)


def test_every_activation_that_a_layer_reads_has_a_range() -> None:
    model = network()
    found = calibrate(model, batches(1), load_recipe("minmax")).ranges
    assert set(found) == {"image", *(name for node in model.graph.node for name in node.output)}


def test_a_convolution_over_a_line_has_ranges_and_no_means() -> None:
    model = network()
    flat = next(node for node in model.graph.node if node.op_type == "Flatten")
    make = helper.make_node
    more = [make("Reshape", ["pooled", "line"], ["row"]), make("Conv", ["row", "eca"], ["mixed_row"], pads=[1, 1])]
    place = list(model.graph.node).index(flat)
    for node in reversed(more):
        model.graph.node.insert(place, node)
    flat.input[0] = "mixed_row"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1, 8]), "line"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 3), dtype=np.float32), "eca"))
    recipe = load_recipe("minmax")
    found = calibrate(model, batches(1), recipe)
    assert "row" in found.ranges
    assert "row" not in found.means
    assert quantize_graph(model, found, recipe).graph.node
