"""Fixtures for all tests: the shared assets, and a cache folder that is not the user's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

from edgetl.bundle import Accuracies, Artifact, Bundle, Manifest, Weights, write_bundle, write_file
from edgetl.records import Border, Execution, Preprocess

SHARED = Path(__file__).parents[2] / "shared"
# The same examples everywhere, however slow the machine is at the moment.
hypothesis.settings.register_profile(
    "edgetl", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("edgetl")


@pytest.fixture(scope="session")
def assets() -> Path:
    """Return the folder of real photos (data/) and weights (weights/), or skip."""
    folder = Path(os.environ.get("EDGETL_ASSETS") or SHARED)
    if not folder.is_dir():
        pytest.skip(f"needs real photos and weights: no folder {folder}; name one with EDGETL_ASSETS")
    return folder


@pytest.fixture(scope="session")
def cache_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder that all tests of a run share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETL_CACHE", str(cache_base))


class Lines:
    """A Progress that keeps what it is told: what is counted with its total, and what is said."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, int]] = []
        self.said: list[str] = []

    def count(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        self.counted.append((what, total))
        return nullcontext(lambda done: None)

    def track(self, items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
        self.counted.append((what, total))
        return iter(items)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="session")
def keep_lines() -> type[Lines]:
    """Return the class of `lines`, for fixtures that live longer than a test."""
    return Lines


@pytest.fixture
def lines() -> Lines:
    """Return a Progress that keeps what it is told."""
    return Lines()


@pytest.fixture(scope="session")
def tiny_how() -> Preprocess:
    """Return the preprocessing of the tiny bundle: 32 px and a border of one pixel at the top and left."""
    return Preprocess(side=32, fit="squash", mean=(124, 116, 104), std=(58.4, 57.1, 57.4), border=Border(top=1, left=1))


@pytest.fixture(scope="session")
def tiny_photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Return four JPEG photos of 48x40 pixels: coloured gradients with a little noise."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(7)
    paths = []
    for index in range(4):
        corners = Image.fromarray(draw.integers(0, 256, (2, 2, 3), dtype=np.uint8)).resize(
            (48, 40), Image.Resampling.BILINEAR
        )
        pixels = np.asarray(corners, dtype=np.int16) + draw.integers(-12, 13, (40, 48, 3))
        paths.append(folder / f"{index}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return tuple(paths)


@pytest.fixture(scope="session")
def tiny_core() -> Any:
    """Return a float core graph with onnx: `image` float32 of shape (images, 3, 33, 33), `logits` of 3 classes."""
    onnx = pytest.importorskip("onnx", reason="onnx makes the tiny graph")
    draw = np.random.default_rng(3)
    tensors = {
        "kernel": draw.normal(0, 0.6, (8, 3, 3, 3)),
        "kernel_bias": draw.normal(0, 0.2, 8),
        "head": draw.normal(0, 2.0, (8, 3)),
        "head_bias": draw.normal(0, 0.2, 3),
    }
    make = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            make("Conv", ["image", "kernel", "kernel_bias"], ["edges"], strides=[2, 2]),
            make("Relu", ["edges"], ["kept"]),
            make("GlobalAveragePool", ["kept"], ["pooled"]),
            make("Flatten", ["pooled"], ["features"]),
            make("Gemm", ["features", "head", "head_bias"], ["logits"]),
        ],
        "tiny",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["images", 3, 33, 33])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["images", 3])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)


BundleMaker = Callable[..., Bundle]


@pytest.fixture(scope="session")
def make_bundle(tiny_core: Any, tiny_how: Preprocess, tiny_photos: tuple[Path, ...]) -> BundleMaker:
    """Return a function that writes a tiny bundle at a path; `golden=False` leaves the golden photos out."""
    from edgetl.compile import compile_graph
    from edgetl.runtime import expect, open_artifact, open_photo, preprocess, write_golden

    compiled = compile_graph(tiny_core.SerializeToString(), "onnxruntime")
    artifact = Artifact(
        path="model.onnx",
        engine="onnxruntime",
        precision="fp32",
        execution=Execution(threads=1),
        input=compiled.input,
        output=compiled.output,
    )
    images = np.stack([preprocess(open_photo(path), tiny_how) for path in tiny_photos])
    session = open_artifact(compiled.content, artifact)
    logits = np.concatenate([session.run(image[None]) for image in images])
    session.close()

    def make(out: Path, golden: bool = True, **changed: Any) -> Bundle:
        def compose(folder: Path) -> Manifest:
            write_file(folder / "model.onnx", compiled.content.graph)
            write_file(folder / "labels.txt", "apple\nbanana\ncherry\n")
            told = write_golden(folder, tiny_photos, images) if golden else None
            manifest = Manifest(
                name="tiny",
                task="classification",
                labels=("apple", "banana", "cherry"),
                preprocess=tiny_how,
                artifacts=(artifact,),
                golden=expect(told, folder, artifact, logits, 1e-3) if told else None,
                backbone="tiny",
                weights=Weights(source="drawn at random", identity="seed 3", licence="Apache-2.0"),
                target="cpu",
                seed=0,
                build="0" * 64,
                accuracy=Accuracies(split="test", images=4, frozen=0.5, float=0.75, shipped=0.75),
                ladder=(),
                toolchain={"edgetl": "0.1.0"},
                files={},
            )
            return manifest.model_copy(update=changed)

        return write_bundle(out, compose)

    return make


@pytest.fixture(scope="session")
def tiny_bundle(make_bundle: BundleMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny bundle, shared by all tests: read it, do not change it."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny").folder


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return the folder of a tiny bundle that a test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def write_colours() -> Callable[..., Path]:
    """Return a function that writes so many noisy photos to each class folder: write(root, red=8, blue=8)."""
    draw = np.random.default_rng(11)
    paints = {"red": (200, 50, 50), "green": (50, 200, 50), "blue": (50, 50, 200)}

    def write(root: Path, **counts: int) -> Path:
        for label, count in counts.items():
            (root / label).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = np.array(paints[label]) + draw.normal(0, 30, (40, 48, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / label / f"{index:02d}.png")
        return root

    return write


@pytest.fixture(scope="session")
def colours(write_colours: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 36 photos in three classes, which a linear head tells apart: read it, do not change it."""
    return write_colours(tmp_path_factory.mktemp("colours") / "photos", red=12, green=12, blue=12)


@pytest.fixture(scope="session")
def one_rounding() -> Iterator[None]:
    """Let builds leave out one scale for each weight: whether INT8 pays, so that it is tried, hangs on the clock."""
    pytest.importorskip("torch", reason="torch trains the small build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgetl.pipeline.variants.READS_SCALES", "")
        yield


@pytest.fixture(scope="session")
def small_build(colours: Path, one_rounding: None) -> dict[str, Any]:
    """Return the settings of a build that takes seconds, less `out`."""
    return {
        "data": str(colours),
        "backbone": "torchvision/squeezenet1_1",
        "weights": "random",
        "image_size": 32,
        "epochs": 1,
        "golden": 3,
    }


@pytest.fixture(scope="session")
def built(small_build: dict[str, Any], cache_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the bundle of the small build, made by the whole line; its stages stay in the shared cache."""
    from edgetl.pipeline import BuildSettings, build

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETL_CACHE", str(cache_base))
        return build(BuildSettings(**small_build, out=tmp_path_factory.mktemp("built") / "colours"))
