"""Compare INT8 with float, and the uint8 face with the graph without it, at batch 1, in one run.

    python benchmarks/int8_speed.py --config build.toml [--sessions 9]

The settings are those of a build that is done: its artifacts are read from the cache. What is compared is timed in
pairs, in turn, since the thread pools of more sessions disturb each other; on all cores, and on one. A session is fast
or slow by where its memory happens to lie, so each pair is opened anew several times; the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import onnxruntime
from recording import save_ratios

from edgetl.bench import interleave
from edgetl.data import load_image
from edgetl.errors import SettingsError
from edgetl.pipeline import make_plan, read_settings
from edgetl.pipeline.results import CompiledStage, Exported
from edgetl.records import Latency, Quiet
from edgetl.runtime.on_onnxruntime import session_options

ROUNDS, PER_ROUND = 10, 20


def compare(graphs: tuple[Path, Path], images: tuple[np.ndarray, np.ndarray], threads: int) -> list[Latency]:
    """Return the latency of two graphs, each on its own input named `image`."""
    calls = {}
    for index, (graph, image) in enumerate(zip(graphs, images, strict=True)):
        session = onnxruntime.InferenceSession(graph, session_options(threads), providers=["CPUExecutionProvider"])
        calls[str(index)] = lambda session=session, image=image: session.run(None, {"image": image})
    return list(interleave(calls, ROUNDS, PER_ROUND).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--sessions", type=int, default=9)
    options = parser.parse_args()
    plan = make_plan(read_settings(options.config, {}), Quiet())
    if not plan.lower_precisions or not plan.compiled.done:
        raise SettingsError(
            f"{options.config}: its INT8 graph is not in the cache. Run: edgetl build --config {options.config}"
        )
    how = plan.exported.read("exported", Exported).preprocess
    made = plan.compiled.read("compiled", CompiledStage)
    float_, int8 = (plan.compiled.folder / made.of(precision).path for precision in ("fp32", "int8"))
    image = load_image(plan.photos.dataset.path_of(plan.photos.dataset.items[0]), how)[None]
    planes = np.ascontiguousarray(image.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    pairs = {
        "float_over_int8": ((float_, int8), (image, image)),
        "float_face_over_bare": ((float_, plan.core), (image, planes)),
        "int8_face_over_bare": ((int8, plan.quantized.folder / "int8.onnx"), (image, planes)),
    }
    ratios: dict[str, list[float]] = {}
    samples: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.sessions):
        for threads in (os.cpu_count() or 1, 1):
            for name, (graphs, images) in pairs.items():
                key = f"{name}, threads: {threads}"
                first, second = compare(graphs, images, threads)
                ratios.setdefault(key, []).append(first.p50_ms / second.p50_ms)
                samples.setdefault(key, []).extend(zip(first.samples_ms, second.samples_ms, strict=True))
    save_ratios("int8_speed", ratios, samples, backbone=plan.settings.backbone, image_side=how.side)


if __name__ == "__main__":
    main()
