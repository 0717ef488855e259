"""Finds the range of every activation of a core graph, and the mean input of every channel: once, for every engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgetl.compile import feed_of
from edgetl.errors import CalibrationError
from edgetl.outcomes import Statistics
from edgetl.quantize.mapped import open_mapped, without_weights
from edgetl.quantize.observers import observer_of
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray, ImageArray

__all__ = ["calibrate"]

# Bytes of activations that are looked at at once, unless one image's tensor alone has more.
AT_ONCE = 64 * 2**20
# What is added to the graph: the axes of places, and the tensors that are looked at.
PLACES, MEANS, LEAST, MOST = "_places", "_channel_means", "_least", "_most"


def calibrate(model: onnx.ModelProto, batches: Iterable[ImageArray], recipe: CalibrationRecipe) -> Statistics:
    """Return the statistics of every activation; the image's range is 0 to 1, whatever was seen.

    Memory does not grow with the images: beside the network, it holds `AT_ONCE` bytes of activations and what the
    engine needs for one image.

    Args:
        model: the core graph: float32 `image` of shape (images, 3, height, width) holding pixel/255.
        batches: calibration images, uint8 of shape (images, height, width, 3).
        recipe: its method.

    Raises:
        CalibrationError: no image came, or an activation or an answer is not finite.
    """
    observer = observer_of(recipe)
    network = _Network(model, observer.reduced)
    sums: dict[str, npt.NDArray[np.float64]] = {}
    seen = 0
    for images in batches:
        for start in range(0, len(images), network.at_once):
            some = images[start : start + network.at_once]
            for looked in network.look(feed_of(model, some)):
                # The least and the most of some numbers pass over a NaN.
                if looked.logits is not None and not np.isfinite(looked.logits).all():
                    raise CalibrationError(
                        f"the network's answers for calibration images {seen + 1} to {seen + len(some)} are not "
                        "finite, so its activations have no range. Is a weight NaN or far too large?"
                    )
                for name, mean in looked.means.items():
                    sums[name] = sums.get(name, np.zeros(mean.shape)) + len(some) * mean.astype(np.float64)
                observer.observe(looked.values)
            seen += len(some)
        observer.end_batch()
    if seen == 0:
        raise CalibrationError("no image came to calibrate with")
    ranges = observer.ranges()
    endless = [name for name, both in ranges.items() if not np.isfinite(both).all()]
    if endless:
        raise CalibrationError(f"the network's activations {', '.join(endless)} have no range: some are not finite")
    return Statistics(
        ranges={**ranges, model.graph.input[0].name: (0.0, 1.0)},
        means={name: tuple((total / seen).tolist()) for name, total in sums.items()},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What one run of the network gave: logits and means, by tensor, come with the first of each image's runs."""

    logits: FloatArray | None
    means: dict[str, FloatArray]
    values: dict[str, FloatArray]


class _Network:
    """The graph, giving its activations or their extremes, and the channel means of what convolutions read."""

    def __init__(self, model: onnx.ModelProto, reduced: bool) -> None:
        """Open the graph; `reduced` gives extremes, shape (2,) each, in place of whole tensors."""
        self._logits, self._reduced = model.graph.output[0].name, reduced
        planes = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 4}
        self._read = sorted(
            {node.input[0] for node in model.graph.node if node.op_type == "Conv" and node.input[1] in planes}
        )
        sizes = _sizes(model)
        self.at_once = max(1, AT_ONCE // sum(sizes.values()))
        self._groups = [list(sizes)] if reduced else list(_grouped(sizes, AT_ONCE))
        self._session = open_mapped(model, self._watch(model, list(sizes)))

    def look(self, feed: dict[str, FloatArray]) -> Iterator[_Look]:
        """Yield what the network gives for a feed, a group of tensors at a time."""
        for number, names in enumerate(self._groups):
            means = self._read if number == 0 else []
            wanted = [f"{name}{kind}" for name in names for kind in ((LEAST, MOST) if self._reduced else ("",))]
            asked = [*([self._logits] if number == 0 else []), *(f"{name}{MEANS}" for name in means), *wanted]
            found = dict(zip(asked, self._session.run(asked, feed), strict=True))
            yield _Look(
                logits=found.get(self._logits) if number == 0 else None,
                means={name: found[f"{name}{MEANS}"] for name in means},
                values={
                    name: np.array([found[f"{name}{LEAST}"], found[f"{name}{MOST}"]]) if self._reduced else found[name]
                    for name in names
                },
            )

    def _watch(self, model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.GraphProto:
        """Return what the graph lacks of nodes and outputs."""
        wanted = [(name, MEANS, "ReduceMean", [PLACES]) for name in self._read]
        if self._reduced:
            wanted += [(name, LEAST, "ReduceMin", []) for name in tensors]
            wanted += [(name, MOST, "ReduceMax", []) for name in tensors]
        more = onnx.GraphProto()
        more.initializer.append(numpy_helper.from_array(np.array([0, 2, 3]), PLACES))
        for name, kind, reduce, axes in wanted:
            more.node.append(helper.make_node(reduce, [name, *axes], [f"{name}{kind}"], keepdims=0))
            more.output.append(onnx.ValueInfoProto(name=f"{name}{kind}"))
        if not self._reduced:
            given = {one.name for one in (*model.graph.input, *model.graph.output)}
            more.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in given)
        return more


def _sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Return the bytes of every float activation for one image, by its name; a free axis counts as one."""
    light = without_weights(model)
    light.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    infos = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.output)}
    return {
        name: 4 * math.prod(max(1, dim.dim_value) for dim in kind.shape.dim)
        for name, kind in infos.items()
        if kind.elem_type == TensorProto.FLOAT
    }


def _grouped(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Yield the names in groups of up to so many bytes; one that has more is alone."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group
