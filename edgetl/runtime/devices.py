"""Says which devices of this machine each engine can run on."""

from __future__ import annotations

from edgetl.errors import EdgetlError
from edgetl.records import Device

__all__ = ["describe_cuda", "devices_of"]


def devices_of(engine: str) -> tuple[Device, ...]:
    """Return the devices here that an engine can run on; none where the engine is not installed."""
    return LOOKS[engine]()


def describe_cuda() -> str | None:
    """Return the GPU that CUDA finds, as `Orin, SM 8.7`; None where it finds none."""
    from edgetl.runtime.cudart import open_cuda

    try:
        device = open_cuda().device()
    except EdgetlError:
        return None
    return f"{device.name}, SM {device.compute_capability}"


def _of_onnxruntime() -> tuple[Device, ...]:
    from edgetl.runtime.on_onnxruntime import devices

    return devices()


def _of_openvino() -> tuple[Device, ...]:
    from edgetl.runtime.on_openvino import devices

    return devices()


def _of_tensorrt() -> tuple[Device, ...]:
    from edgetl.compile.for_tensorrt import load_tensorrt

    try:
        load_tensorrt()
    except EdgetlError:
        return ()
    return ("cuda",) if describe_cuda() else ()


LOOKS = {"onnxruntime": _of_onnxruntime, "openvino": _of_openvino, "tensorrt": _of_tensorrt}
