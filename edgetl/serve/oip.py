"""The Open Inference Protocol's inference request and response, JSON and binary tensors.

Source: https://github.com/kserve/open-inference-protocol, inference_rest.md, and Triton's extensions for binary tensors
and classification. Nothing here runs on the event loop.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgetl.records import FloatArray, ImageArray, TensorSpec
from edgetl.serve.replies import Headers, RefusedError, Reply

__all__ = ["HEADER_LENGTH", "SCORES", "InferRequest", "describe_tensor", "read_request", "write_response"]

# Says where the JSON object of a body ends and binary tensors begin.
HEADER_LENGTH = b"inference-header-content-length"
# The output that is the logits' softmax.
SCORES = "scores"
# Images of one request; each takes memory for its pixels.
MOST_IMAGES = 256
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
Size = Annotated[int, Field(ge=0, le=2**31)]


class Loose(BaseModel):
    """A part of a request, which may hold what extensions of others say."""

    model_config = ConfigDict(frozen=True, strict=True)


class InputParameters(Loose):
    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class Input(Loose):
    name: str
    shape: Annotated[list[Size], Field(max_length=8)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(Loose):
    binary_data: bool | None = None
    classification: Annotated[int, Field(ge=0, le=100_000)] = 0


class Output(Loose):
    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(Loose):
    binary_data_output: bool = False


class Body(Loose):
    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[Input], Field(min_length=1, max_length=8)]
    outputs: Annotated[list[Output], Field(max_length=8)] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """An output that is asked for: as bytes or as JSON, as numbers or as so many classes."""

    name: str
    binary: bool
    classes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class InferRequest:
    """What is asked: encoded photos or ready images, and the outputs wanted."""

    id: str | None
    photos: tuple[bytes, ...]
    images: ImageArray | None
    outputs: tuple[Wanted, ...]


def read_request(body: bytes, header_length: int | None, image: TensorSpec, outputs: Sequence[str]) -> InferRequest:
    """Return what a request asks.

    Args:
        body: the whole body.
        header_length: of the JSON object, where binary tensors follow it.
        image: what the network reads; its shape but for the first axis must be that of UINT8 tensors.
        outputs: the names that can be asked for; all, if none is.

    Raises:
        RefusedError: 400, with what is wrong and what is allowed.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise _wrong(f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes")
    head = body[:header_length]
    asked = _parse(head)
    if len(asked.inputs) != 1 or asked.inputs[0].name != image.name:
        found = ", ".join(repr(one.name[:64]) for one in asked.inputs)
        raise _wrong(f"one input is taken, {image.name!r}; found {found}")
    given = asked.inputs[0]
    rest = memoryview(body)[len(head) :]
    size = given.parameters.binary_data_size
    if (given.data is None) == (size is None):
        raise _wrong(f"input {image.name!r} needs either `data` or the parameter `binary_data_size`")
    if (size or 0) != len(rest):
        raise _wrong(f"{len(rest)} bytes follow the JSON object, but binary_data_size says {size or 0}")
    photos: tuple[bytes, ...] = ()
    images = None
    if given.datatype == "BYTES":
        photos = _read_photos(given, rest)
    elif given.datatype == "UINT8":
        images = _read_images(given, rest, image)
    else:
        raise _wrong(
            f"input {image.name!r} is UINT8 of shape {_shape(image)}, or BYTES that hold encoded photos; found "
            f"{given.datatype[:16]!r}"
        )
    return InferRequest(id=asked.id, photos=photos, images=images, outputs=_outputs(asked, outputs))


def write_response(
    request: InferRequest, name: str, version: str, outputs: Mapping[str, FloatArray], labels: Sequence[str]
) -> Reply:
    """Return the response.

    Args:
        request: what was asked.
        name: the model's.
        version: likewise.
        outputs: name -> values of shape (images, classes).
        labels: of the classes.
    """
    told, parts = [], []
    for wanted in request.outputs:
        values: Any = outputs[wanted.name]
        datatype = "FP32"
        if wanted.classes:
            values, datatype = _classify(values, labels, wanted.classes), "BYTES"
        entry: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": list(values.shape)}
        if wanted.binary:
            parts.append(_encode(values))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = values.ravel().tolist()
        told.append(entry)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": told}
    if request.id is not None:
        answer["id"] = request.id
    head = json.dumps(answer, separators=(",", ":")).encode()
    if not parts:
        return Reply(body=head)
    length: Headers = ((HEADER_LENGTH, str(len(head)).encode()),)
    return Reply(body=b"".join([head, *parts]), media_type=b"application/octet-stream", headers=length)


def describe_tensor(spec: TensorSpec) -> dict[str, Any]:
    """Return a tensor as model metadata states it."""
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(spec.shape)}


def _parse(head: bytes) -> Body:
    try:
        return Body.model_validate(json.loads(head))
    except RecursionError:
        raise _wrong("the JSON object is nested too deep") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise _wrong(f"{where}: {first['msg']}") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise _wrong(f"the body is no JSON object: {error}") from None


def _read_photos(given: Input, rest: memoryview) -> tuple[bytes, ...]:
    """Return the encoded photos: in JSON as base64, in a binary tensor each after its length."""
    count = math.prod(given.shape)
    if not 0 < count <= MOST_IMAGES:
        raise _wrong(f"shape {given.shape} holds {count} photos, but 1 to {MOST_IMAGES} are taken")
    if given.data is not None:
        if len(given.data) != count or not all(isinstance(one, str) for one in given.data):
            raise _wrong(f"data must hold {count} strings, photos in base64")
        try:
            return tuple(base64.b64decode(one, validate=True) for one in given.data)
        except (binascii.Error, ValueError) as error:
            raise _wrong(f"data must hold photos in base64: {error}") from None
    photos: list[bytes] = []
    start = 0
    while start < len(rest):
        end = start + 4 + int.from_bytes(rest[start : start + 4], "little")
        if end > len(rest):
            raise _wrong(f"photo {len(photos)} says that it is longer than the bytes that follow")
        photos.append(bytes(rest[start + 4 : end]))
        start = end
    if len(photos) != count:
        raise _wrong(f"shape {given.shape} holds {count} photos, but {len(photos)} follow")
    return tuple(photos)


def _read_images(given: Input, rest: memoryview, image: TensorSpec) -> ImageArray:
    shape = tuple(given.shape)
    if shape[1:] != image.shape[1:] or not 0 < shape[0] <= MOST_IMAGES:
        raise _wrong(
            f"input {image.name!r} has shape {_shape(image)} with 1 to {MOST_IMAGES} images, found {given.shape}"
        )
    count = math.prod(shape)
    if given.data is None:
        if len(rest) != count:
            raise _wrong(f"shape {given.shape} takes {count} bytes, but {len(rest)} follow")
        return np.frombuffer(rest, dtype=np.uint8).reshape(shape)
    try:
        values = np.asarray(given.data)
    except ValueError as error:
        raise _wrong(f"data does not hold an array: {error}") from None
    if values.dtype.kind != "i" or values.size != count or (values.ndim > 1 and values.shape != shape):
        raise _wrong(f"data must hold {count} integers, flat or nested as the shape says")
    if values.min() < 0 or values.max() > 255:
        raise _wrong("data must hold integers from 0 to 255")
    return values.astype(np.uint8).reshape(shape)


def _outputs(asked: Body, known: Sequence[str]) -> tuple[Wanted, ...]:
    names = {one.name: one for one in asked.outputs or [Output(name=name) for name in known]}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _wrong(f"output {unknown[0][:64]!r} is not known. Known: {', '.join(known)}")
    everything = asked.parameters.binary_data_output
    return tuple(
        Wanted(
            name=name,
            binary=everything if one.parameters.binary_data is None else one.parameters.binary_data,
            classes=one.parameters.classification,
        )
        for name, one in names.items()
    )


def _classify(values: FloatArray, labels: Sequence[str], count: int) -> Any:
    """Return `value:index:label` of the highest, as Triton's classification extension writes them."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    rows = [
        [f"{row[index]:f}:{index}:{labels[index]}" for index in best] for row, best in zip(values, order, strict=True)
    ]
    return np.array(rows, dtype=object)


def _encode(values: Any) -> bytes:
    if values.dtype != object:
        return np.ascontiguousarray(values, dtype="<f4").tobytes()
    texts = [text.encode() for text in values.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _shape(spec: TensorSpec) -> str:
    return "(" + ", ".join("images" if size == -1 else str(size) for size in spec.shape) + ")"


def _wrong(message: str) -> RefusedError:
    return RefusedError(400, "malformed", message)
