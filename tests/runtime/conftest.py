"""Fixtures for the tests of the runtime room: a small bundle for TensorRT, and a device with a fake of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from install import install, write_path

from edgetl.bundle import Artifact, Bundle, write_bundle, write_file
from edgetl.compile import compile_graph
from edgetl.records import Execution, Precision
from edgetl.runtime import expect, open_reference

ON_GPU = Execution(device="cuda", batch_sizes=(1, 4), workspace_bytes=1 << 28)


@pytest.fixture(scope="session")
def typed_bundle(tiny_core: Any, make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle for TensorRT: the tiny network in INT8+FP16, INT8, FP16, and in float for ONNX Runtime."""
    pytest.importorskip("modelopt", reason="ModelOpt types the graphs of a bundle for TensorRT")
    from edgetl.quantize import calibrate, quantize_for
    from edgetl.recipe import load_recipe

    folder = tmp_path_factory.mktemp("typed")
    plain = make_bundle(folder / "plain")
    images = np.load(plain.folder / "golden" / "inputs.npy")
    ladder: tuple[Precision, ...] = ("int8+fp16", "int8", "fp16")
    recipe = load_recipe("minmax")
    graphs = quantize_for("tensorrt", tiny_core, calibrate(tiny_core, [images], recipe), [images], recipe, ladder)

    def compose(out: Path) -> Any:
        for name in plain.manifest.files:
            write_file(out / name, (plain.folder / name).read_bytes())
        (out / "model.onnx").rename(out / "fallback.onnx")
        (out / "golden" / "model.npy").unlink()
        fallback = plain.manifest.artifact.model_copy(update={"path": "fallback.onnx"})
        golden = plain.manifest.golden.model_copy(update={"expected": {}})  # type: ignore[union-attr]
        artifacts = []
        for precision in ladder:
            made = compile_graph(graphs[precision].SerializeToString(), "tensorrt")
            name = "model.onnx" if not artifacts else f"model-{precision}.onnx"
            write_file(out / name, made.content.graph)
            artifacts.append(
                Artifact(
                    path=name, engine="tensorrt", precision=precision, execution=ON_GPU, input=made.input,
                    output=made.output,
                )
            )  # fmt: skip
        for artifact in [*artifacts, fallback]:
            content = type(made.content)(graph=(out / artifact.path).read_bytes())
            session = open_reference(content, artifact)
            logits = session.run(images)
            golden = expect(golden, out, artifact, logits, 0.05 * float(np.abs(logits).max()))
        return plain.manifest.model_copy(
            update={"artifacts": (*artifacts, fallback), "golden": golden, "files": {}, "target": "jetson-orin-nano"}
        )

    return write_bundle(folder / "typed", compose).folder


@dataclass(frozen=True, kw_only=True)
class Jetson:
    """A device with a fake TensorRT, and a bundle on it: read the bundle, or change it."""

    trt: Any
    cuda: Any
    bundle: Path
    plans: Path


@pytest.fixture(params=["10.3.0", "11.0.0"])
def jetson(
    request: pytest.FixtureRequest, typed_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Jetson:
    """Return a device whose children have the fake too, and whose cache is empty."""
    trt, cudart = install(monkeypatch, request.param)
    monkeypatch.setenv("PYTHONPATH", str(write_path(tmp_path / "fakes", request.param)))
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    bundle = Path(shutil.copytree(typed_bundle, tmp_path / "bundle"))
    return Jetson(trt=trt, cuda=cudart._state, bundle=bundle, plans=tmp_path / "cache" / "plans")
