"""Quantize a float graph with another tool's defaults, as its documentation writes it. `quantize_vs_peers.py` calls it.

    python benchmarks/quantize_peer.py PEER core.onnx photos.npy out.onnx

It runs in the peer's own environment, where edgetl need not be. `photos.npy` holds uint8 photos of shape (photos,
height, width, 3); the graph reads pixel/255 as float32 of shape (photos, 3, height, width).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Feeds:
    """Gives one photo after the other, in the form that the tools of ONNX ask for."""

    def __init__(self, photos: np.ndarray) -> None:
        self._photos, self._next = photos, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, then None."""
        if self._next == len(self._photos):
            return None
        self._next += 1
        return {"image": planes(self._photos[self._next - 1 : self._next])}

    def rewind(self) -> None:
        """Begin again."""
        self._next = 0

    def __len__(self) -> int:
        return len(self._photos)


def planes(photos: np.ndarray) -> np.ndarray:
    """Return what the graph reads."""
    return np.ascontiguousarray(photos.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def by_onnxruntime(core: Path, photos: np.ndarray, out: Path) -> str:
    """Return the version, after `quant_pre_process` and `quantize_static` with their defaults."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader: Any = type("Reader", (Feeds, CalibrationDataReader), {})(photos)
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(core, prepared)
    quantize_static(prepared, out, reader)
    return f"onnxruntime {onnxruntime.__version__}"


def by_nncf(core: Path, photos: np.ndarray, out: Path) -> str:
    """Return the version, after `nncf.quantize` with its defaults on the graph as ONNX."""
    import nncf
    import onnx

    dataset = nncf.Dataset([planes(photo[None]) for photo in photos], lambda one: {"image": one})
    onnx.save(nncf.quantize(onnx.load(core), dataset), out)
    return f"nncf {nncf.__version__}"


def by_nncf_openvino(core: Path, photos: np.ndarray, out: Path) -> str:
    """Return the version, after `nncf.quantize` with its defaults on the graph as OpenVINO reads it."""
    import nncf
    import openvino

    dataset = nncf.Dataset([planes(photo[None]) for photo in photos])
    openvino.save_model(nncf.quantize(openvino.Core().read_model(core), dataset), out, compress_to_fp16=False)
    return f"nncf {nncf.__version__}, openvino {openvino.__version__}"


def by_modelopt(core: Path, photos: np.ndarray, out: Path) -> str:
    """Return the version, after ModelOpt's `quantize` with its defaults, but for a float32 rest, as CPUs want it."""
    import modelopt
    from modelopt.onnx.quantization import quantize

    quantize(
        str(core),
        quantize_mode="int8",
        calibration_data={"image": planes(photos)},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )
    return f"nvidia-modelopt {modelopt.__version__}"


def by_neural_compressor(core: Path, photos: np.ndarray, out: Path) -> str:
    """Return the version, after Intel Neural Compressor's `quantize` with its defaults."""
    from importlib.metadata import version

    from onnx_neural_compressor.data_reader import CalibrationDataReader
    from onnx_neural_compressor.quantization import config, quantize

    reader: Any = type("Reader", (Feeds, CalibrationDataReader), {})(photos)
    quantize(str(core), str(out), config.StaticQuantConfig(calibration_data_reader=reader))
    return f"onnx-neural-compressor {version('onnx-neural-compressor')}"


PEERS: dict[str, Callable[[Path, np.ndarray, Path], str]] = {
    "onnxruntime": by_onnxruntime,
    "nncf": by_nncf,
    "nncf_openvino": by_nncf_openvino,
    "modelopt": by_modelopt,
    "neural_compressor": by_neural_compressor,
}

if __name__ == "__main__":
    peer, graph, images, made = sys.argv[1:]
    # Last, for the tools print much.
    print(f"\n{PEERS[peer](Path(graph), np.load(images), Path(made))}")
