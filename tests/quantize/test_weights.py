"""Tests of edgetl/quantize/weights.py: how finely weights of each kind of layer are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgetl.quantize.weights import weight_overrides
from edgetl.recipe import CalibrationRecipe

# Two output channels of three inputs each: neighbours add to 7 and 9, where the largest are 4 and 8.
ROWS = np.array([[3.0, -4.0, 1.0], [8.0, 1.0, -2.0]], dtype=np.float32)


def recipe(**changed: Any) -> CalibrationRecipe:
    return CalibrationRecipe(schema=1, name="mine", description="-", method="minmax", images=8, **changed)


def ranges(kind: str, weight: np.ndarray[Any, Any], how: CalibrationRecipe, **attributes: Any) -> list[dict[str, Any]]:
    """Return what is said of the weights of one layer."""
    node = helper.make_node(kind, ["x", "weight"], ["y"], **attributes)
    stored = [numpy_helper.from_array(weight.astype(np.float32), "weight")]
    return weight_overrides(helper.make_graph([node], "core", [], [], stored), how).get("weight", [])


LAYERS = {
    "MatMul": (ROWS.T, {}, 1),
    "Gemm": (ROWS.T, {}, 1),
    "Gemm transposed": (ROWS, {"transB": 1}, 0),
    "Conv": (ROWS.reshape(2, 3, 1, 1), {}, 0),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("reduce_range", "reach"), [(True, [7.0, 9.0]), (False, [4.0, 8.0])])
def test_no_two_inputs_of_an_output_come_to_more_than_the_range_where_it_is_reduced(
    layer: str, reduce_range: bool, reach: list[float]
) -> None:
    weight, attributes, axis = LAYERS[layer]
    found = ranges(layer.partition(" ")[0], weight, recipe(reduce_range=reduce_range), **attributes)
    assert [(each["rmin"], each["rmax"]) for each in found] == [(-one, one) for one in reach]
    assert {each["axis"] for each in found} == {axis}


@pytest.mark.parametrize("layer", LAYERS)
def test_one_range_serves_all_channels_where_the_recipe_says_so(layer: str) -> None:
    weight, attributes, _ = LAYERS[layer]
    (found,) = ranges(layer.partition(" ")[0], weight, recipe(reduce_range=True, per_channel=False), **attributes)
    assert (found["rmin"], found["rmax"], "axis" in found) == (-9.0, 9.0, False)


def test_neighbours_of_a_kernel_are_the_channels_of_one_place() -> None:
    # Channels last, the order of a row is 1, 5, 2, 6: the largest sum is 8, where rows of places would give 11.
    kernel = np.array([[1.0, 2.0], [5.0, 6.0]], dtype=np.float32).reshape(1, 2, 1, 2)
    (found,) = ranges("Conv", kernel, recipe(reduce_range=True))
    assert found["rmax"] == 8.0


def test_depthwise_weights_are_not_added_in_pairs() -> None:
    (first, second) = ranges("Conv", ROWS[:, :2].reshape(2, 1, 1, 2), recipe(reduce_range=True), group=2)
    assert (first["rmax"], second["rmax"]) == (4.0, 8.0)


def test_weights_of_a_batch_of_matrices_are_left_to_the_quantizer() -> None:
    assert ranges("MatMul", np.ones((2, 3, 4)), recipe()) == []


def test_weights_that_are_computed_are_left_to_the_quantizer() -> None:
    node = helper.make_node("MatMul", ["x", "computed"], ["y"])
    assert weight_overrides(onnx.helper.make_graph([node], "core", [], []), recipe()) == {}
