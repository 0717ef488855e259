"""Lets a model of OpenVINO's begin at whole photos, and edgetl's own session enter behind that, at the image.

An IR with a `ModelInfo` takes photos, BGR of any size, and makes images of them as `runtime/preprocess` does, to two
levels of 255 (more where a cut ends), for Pillow's own filter is among OpenVINO's. So OpenVINO's Model API, its model
server and programs of one's own need nothing but the file. Left to Model API itself, which resizes without a filter and
paints no border, 6 to 16 of 50 photos got another label (nano, whose border is one pixel).
"""

from __future__ import annotations

from typing import Any

from edgetl.compile.compiled import ModelInfo
from edgetl.errors import ExportError
from edgetl.records import Preprocess, TensorSpec

__all__ = ["take_images", "take_photos"]

# The input of an IR that takes whole photos.
PHOTO = "photo"
# Axes of a photo: the batch is 0.
HEIGHT, WIDTH, COLOUR = 1, 2, 3


def take_photos(model: Any, info: ModelInfo, reads: TensorSpec, gives: TensorSpec) -> None:
    """Let a model that reads images read photos, in place: the image is made of them by nodes before it; and say in it
    how it is to be used.

    Args:
        model: an `openvino.Model`.
        info: how photos become images, and the names of the classes.
        reads: the images.
        gives: the logits.

    Raises:
        ExportError: the info is of another graph.
    """
    _check_info(info, reads, gives)
    _put_before(model, info.preprocess)
    _describe(model, info)


def take_images(model: Any, images: TensorSpec) -> Any:
    """Return an IR's model, changed in place to begin at its images: without what makes these of photos.

    One that begins there already, or has no such tensor, stays as it is.

    Args:
        model: an `openvino.Model`.
        images: the artifact's input.
    """
    from openvino import Type
    from openvino import opset13 as ops

    begins = [name for port in model.inputs for name in port.names]
    ports = (port for node in model.get_ordered_ops() for port in node.outputs())
    inner = next((port for port in ports if images.name in port.names), None)
    if images.name in begins or inner is None:
        return model
    photos = model.get_parameters()
    begin = ops.parameter(list(images.shape), Type.u8, name=images.name)
    begin.output(0).set_names({images.name})
    inner.replace(begin.output(0))
    model.add_parameters([begin])
    for photo in photos:
        model.remove_parameter(photo)
    model.validate_nodes_and_infer_types()
    return model


def _check_info(info: ModelInfo, reads: TensorSpec, gives: TensorSpec) -> None:
    sizes, classes = reads.shape[1:3], gives.shape[-1]
    if (info.preprocess.height, info.preprocess.width) != sizes:
        raise ExportError(
            f"the graph reads images of {sizes[0]}x{sizes[1]}, but the preprocessing makes "
            f"{info.preprocess.height}x{info.preprocess.width}"
        )
    if len(info.labels) != classes:
        raise ExportError(f"the graph tells {classes} classes apart, but has {len(info.labels)} labels")
    nameless = [index for index, label in enumerate(info.labels) if not label.split()]
    if nameless:
        raise ExportError(f"label {nameless[0]} is blank, and Model API would skip it. Name it")


def _put_before(model: Any, how: Preprocess) -> None:
    """Let a model that reads images read photos: the image is made of them by nodes before it."""
    from openvino import Layout, Type
    from openvino import opset13 as ops

    images = model.get_parameters()[0]
    name = images.output(0).any_name
    photos = ops.parameter([-1, -1, -1, 3], Type.u8, name=PHOTO)
    photos.output(0).set_names({PHOTO})
    photos.set_layout(Layout("NHWC"))
    fitted = ops.gather(_fit(photos, how), [2, 1, 0], COLOUR)
    # The shape is said once more: what is padded to a square by its own size has none that is known beforehand.
    image = ops.reshape(_surround(fitted, how), [-1, how.height, how.width, 3], special_zero=False, name=name)
    images.output(0).replace(image.output(0))
    image.output(0).set_names({name})
    model.add_parameters([photos])
    model.remove_parameter(images)
    model.validate_nodes_and_infer_types()


def _fit(photos: Any, how: Preprocess) -> Any:
    """Return photos cut and resized as `runtime.preprocess.fit_photo` does, but not yet padded to the square.

    A cut begins and ends at whole pixels here.
    """
    import numpy as np
    from openvino import opset13 as ops

    axes, side = np.array([HEIGHT, WIDTH]), np.float32(how.side)
    size = ops.convert(ops.gather(ops.shape_of(photos), axes, 0), "f32")
    inner = ops.constant(np.array([how.side, how.side], dtype=np.int32))
    if how.fit == "crop":
        edge = ops.multiply(ops.reduce_min(size, 0, keep_dims=True), np.float32(how.crop_share))
        begin = _whole(ops.divide(ops.subtract(size, edge), np.float32(2)))
        whole = _whole(size)
        # As much on either side, so that the middle stays where it is; and a pixel at least.
        begin = ops.minimum(begin, ops.divide(ops.subtract(whole, np.int32(1)), np.int32(2)))
        end = ops.subtract(whole, begin)
        photos = ops.slice(photos, begin, end, np.array([1, 1], dtype=np.int32), axes)
    elif how.fit == "pad":
        longest = ops.reduce_max(size, 0, keep_dims=True)
        inner = ops.maximum(_whole(ops.divide(ops.multiply(size, side), longest)), np.int32(1))
    return ops.interpolate(photos, inner, "bilinear_pillow", "sizes", axes=axes)


def _surround(fitted: Any, how: Preprocess) -> Any:
    """Return images inside what is missing to the square and the border, in the mean colour."""
    import numpy as np
    from openvino import opset13 as ops

    border, nothing = how.border, np.zeros(1, dtype=np.int32)
    begin = np.array([border.top, border.left], dtype=np.int32)
    end = np.array([border.bottom, border.right], dtype=np.int32)
    if how.fit != "pad" and not begin.any() and not end.any():
        return fitted
    if how.fit == "pad":
        size = ops.convert(ops.gather(ops.shape_of(fitted), np.array([HEIGHT, WIDTH]), 0), "i32")
        missing = ops.subtract(np.int32(how.side), size)
        before = ops.divide(missing, np.int32(2))
        begin, end = ops.add(before, begin), ops.add(ops.subtract(missing, before), end)
    begin, end = (ops.concat([nothing, each, nothing], 0) for each in (begin, end))
    planes = ops.split(fitted, COLOUR, 3).outputs()
    painted = [
        ops.pad(plane, begin, end, "constant", np.uint8(level)) for plane, level in zip(planes, how.mean, strict=True)
    ]
    return ops.concat(painted, COLOUR)


def _whole(number: Any) -> Any:
    """Return float numbers rounded as Python rounds, as int32."""
    from openvino import opset13 as ops

    return ops.convert(ops.round(number, "half_to_even"), "i32")


def _describe(model: Any, info: ModelInfo) -> None:
    """Say in the IR what Model API asks for (tried: 0.3.0.4 to 0.4.7): photos as they are, and the classes' names."""
    said = {
        "model_type": "Classification",
        "embedded_processing": "True",
        "orig_height": str(info.preprocess.height),
        "orig_width": str(info.preprocess.width),
        # Model API splits them at white space.
        "labels": " ".join("_".join(label.split()) for label in info.labels),
        # Without it the answer is the best class alone.
        "output_raw_scores": "True",
    }
    for key, value in said.items():
        model.set_rt_info(value, ["model_info", key])
