"""Compare a bundle's session with the bare engine, called by hand on the same graph, at batch 1, in one run.

    python benchmarks/session_overhead.py BUNDLE... [--sessions 9]

Both have the engine's options of the bundle. A session is fast or slow by where its memory happens to lie, so each pair
is opened anew several times and timed in turn; the median of the ratios counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from recording import save_ratios

from edgetl.bench import interleave
from edgetl.bundle import Bundle
from edgetl.records import ImageArray
from edgetl.runtime import open_session

ROUNDS, PER_ROUND = 10, 20


def by_onnxruntime(bundle: Bundle, image: ImageArray) -> Callable[[], Any]:
    """Return a call of ONNX Runtime as its documentation writes it."""
    import onnxruntime

    from edgetl.runtime.on_onnxruntime import session_options

    artifact = bundle.manifest.artifact
    session = onnxruntime.InferenceSession(
        bundle.folder / artifact.path, session_options(artifact.execution.threads), providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {artifact.input.name: image})[0]


def by_openvino(bundle: Bundle, image: ImageArray) -> Callable[[], Any]:
    """Return a call of OpenVINO as its documentation writes it."""
    from edgetl.runtime.on_openvino import compile_model

    artifact = bundle.manifest.artifact
    request = compile_model(bundle.read_model(artifact), artifact, 1).create_infer_request()
    return lambda: request.infer([image], share_inputs=True)[0]


BARE = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--sessions", type=int, default=9)
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    samples: dict[str, list[tuple[float, float]]] = {}
    for folder in options.bundles:
        bundle = Bundle.open(folder)
        artifact, golden = bundle.manifest.artifact, bundle.manifest.golden
        if golden is None:
            raise SystemExit(f"{folder}: holds no golden image to run")
        image = np.load(bundle.folder / golden.inputs)[:1]
        key = f"{artifact.engine}, {artifact.precision}"
        for _ in range(options.sessions):
            with closing(open_session(bundle)) as session:
                calls = {
                    "session": partial(session.run, image),
                    "bare": BARE[artifact.engine](bundle, image),
                }
                np.testing.assert_array_equal(calls["session"](), calls["bare"]())
                timed = interleave(calls, ROUNDS, PER_ROUND)
            ratios.setdefault(key, []).append(timed["session"].p50_ms / timed["bare"].p50_ms)
            samples.setdefault(key, []).extend(zip(timed["session"].samples_ms, timed["bare"].samples_ms, strict=True))
    save_ratios("session_overhead", ratios, samples)


if __name__ == "__main__":
    main()
