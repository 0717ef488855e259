"""Compare INT8 with float, and the uint8 face with the graph without it, at batch 1, in one run.

    python benchmarks/int8_speed.py --config build.toml [--rounds 30]

The settings are those of a build that is done: its artifacts are read from the cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from recording import save_result

from edgetl.bench import interleave
from edgetl.data import load_image
from edgetl.errors import SettingsError
from edgetl.pipeline import make_plan, read_settings
from edgetl.pipeline.results import Exported, Quantized
from edgetl.pipeline.steps import open_compiled
from edgetl.records import Quiet


def bare(path: Path, threads: int, planes: np.ndarray) -> Callable[[], Any]:
    """Return a call of the core graph, which reads float planes made beforehand."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": planes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    plan = make_plan(read_settings(options.config, {}), Quiet())
    if plan.quantized is None or not plan.quantized.done:
        raise SettingsError(
            f"{options.config}: its INT8 graph is not in the cache. Run: edgetl build --config {options.config}"
        )
    exported = plan.exported.read("exported", Exported)
    int8 = plan.quantized.read("quantized", Quantized).artifact
    float_session = open_compiled(plan, plan.exported.folder, exported.artifact, "fp32")
    int8_session = open_compiled(plan, plan.quantized.folder, int8, "int8")
    image = load_image(plan.dataset.path_of(plan.dataset.items[0]), exported.preprocess)[None]
    planes = np.ascontiguousarray(image.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    threads = plan.target.engine.threads
    latencies = interleave(
        {
            "float": lambda: float_session.run(image),
            "int8": lambda: int8_session.run(image),
            "float_without_face": bare(plan.exported.folder / "core.onnx", threads, planes),
            "int8_without_face": bare(plan.quantized.folder / "core.onnx", threads, planes),
        },
        rounds=options.rounds,
        per_round=20,
    )
    p50 = {name: latency.p50_ms for name, latency in latencies.items()}
    save_result(
        "int8_speed",
        {
            "backbone": plan.settings.backbone,
            "image_side": exported.preprocess.side,
            "p50_ms": p50,
            "int8_speed_up": p50["float"] / p50["int8"],
            "face_cost": {name: p50[name] / p50[f"{name}_without_face"] for name in ("float", "int8")},
            "samples": {name: latency.samples_ms for name, latency in latencies.items()},
        },
    )


if __name__ == "__main__":
    main()
