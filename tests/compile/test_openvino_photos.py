"""Tests of edgetl/compile/openvino_photos.py: that an IR makes of photos what edgetl makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetl.compile import ModelInfo
from edgetl.compile.for_openvino import compile_graph
from edgetl.compile.openvino_core import the_core
from edgetl.compile.openvino_photos import take_images
from edgetl.errors import ExportError
from edgetl.records import Border, Preprocess, TensorSpec
from edgetl.runtime import open_photo, preprocess, softmax
from tests.compile.test_for_openvino import LABELS, MEAN, SIDE, cores, draw, how, read, runner

__all__ = ["cores"]

openvino = pytest.importorskip("openvino", reason="openvino is what is compiled for")


def inner(model: Any, name: str = "image") -> Any:
    """Return the model up to a tensor within."""
    found = next(port for node in model.get_ordered_ops() for port in node.outputs() if name in port.names)
    return openvino.Model([found], model.get_parameters())


def bgr(*photos: np.ndarray) -> np.ndarray:
    return np.stack(photos)[..., ::-1]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
class TestTakeImages:
    def test_it_answers_as_an_ir_that_never_read_photos(self, precision: str, cores: dict[str, bytes]) -> None:
        plain = compile_graph(cores[precision])
        made = compile_graph(cores[precision], ModelInfo(labels=LABELS, preprocess=how()))
        assert (made.input, made.output) == (plain.input, plain.output)
        taken = take_images(read(made), made.input)
        images = np.stack([draw(SIDE, SIDE, seed) for seed in range(5)])
        first, second = runner(read(plain)), runner(taken)
        for count in (1, 5):
            np.testing.assert_array_equal(second(images[:count]), first(images[:count]))

    def test_it_begins_at_the_image_and_nowhere_else(self, precision: str, cores: dict[str, bytes]) -> None:
        made = compile_graph(cores[precision], ModelInfo(labels=LABELS, preprocess=how("pad")))
        model = take_images(read(made), made.input)
        assert [port.any_name for port in model.inputs] == ["image"]
        assert str(model.input().partial_shape) == f"[?,{SIDE},{SIDE},3]"
        assert model.output().names == {"logits"}
        assert not {"Interpolate", "Pad"} & {node.get_type_name() for node in model.get_ops()}

    def test_what_begins_there_or_has_no_such_tensor_stays(self, precision: str, cores: dict[str, bytes]) -> None:
        plain = compile_graph(cores[precision])
        model = read(plain)
        before = len(model.get_ops())
        assert take_images(model, plain.input) is model
        assert take_images(model, TensorSpec(name="view", dtype="uint8", shape=(-1, SIDE, SIDE, 3))) is model
        assert ([port.any_name for port in model.inputs], len(model.get_ops())) == (["image"], before)


BORDERS = {"none": Border(), "all round": Border(top=1, left=1, bottom=1, right=1), "top left": Border(top=2, left=2)}
SIZES = [(480, 640), (97, 33), (SIDE, SIDE), (200, 40), (1, 1)]


class TestPhotos:
    def taken(self, core: bytes, made_how: Preprocess) -> tuple[Any, Any]:
        made = compile_graph(core, ModelInfo(labels=LABELS, preprocess=made_how))
        return read(made), made

    def test_the_input_is_a_photo_of_any_size(self, cores: dict[str, bytes]) -> None:
        model, _ = self.taken(cores["fp32"], how())
        (port,) = model.inputs
        assert (port.names, port.element_type, str(port.partial_shape)) == ({"photo"}, openvino.Type.u8, "[?,?,?,3]")
        assert openvino.layout_helpers.get_layout(port) == openvino.Layout("NHWC")

    @pytest.mark.parametrize("border", BORDERS)
    @pytest.mark.parametrize(("fit", "share"), [("squash", 1.0), ("pad", 1.0), ("crop", 1.0), ("crop", 0.875)])
    def test_images_are_made_as_edgetl_makes_them(
        self, fit: str, share: float, border: str, cores: dict[str, bytes]
    ) -> None:
        wanted = how(fit, share, BORDERS[border])
        run = runner(inner(self.taken(cores["fp32"], wanted)[0]))
        for height, width in SIZES:
            photo = draw(height, width)
            expected = preprocess(Image.fromarray(photo), wanted)
            (found,) = run(bgr(photo))
            assert (found.shape, found.dtype) == (expected.shape, np.uint8)
            apart = np.abs(found.astype(int) - expected)
            # A cut has its edges at whole pixels, and its filter ends there.
            assert apart.max() <= (12 if fit == "crop" else 2)
            assert apart.mean() < (2 if fit == "crop" else 0.3)

    @pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
    def test_what_is_outside_the_photo_has_exactly_the_mean_colour(self, fit: str, cores: dict[str, bytes]) -> None:
        wanted = how(fit)
        (found,) = runner(inner(self.taken(cores["fp32"], wanted)[0]))(bgr(draw(64, 32)))
        outside = np.ones((SIDE, SIDE), bool)
        left = 8 if fit == "pad" else 0
        outside[1:-1, 1 + left : SIDE - 1 - left] = False
        assert (found[outside] == MEAN).all()

    def test_a_photo_that_fits_is_not_touched(self, cores: dict[str, bytes]) -> None:
        for fit in ("squash", "crop", "pad"):
            wanted = how(fit)
            photo = np.random.default_rng(1).integers(0, 256, (wanted.side, wanted.side, 3), dtype=np.uint8)
            (found,) = runner(inner(self.taken(cores["fp32"], wanted)[0]))(bgr(photo))
            np.testing.assert_array_equal(found[1:-1, 1:-1], photo)

    @pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
    def test_photos_that_come_together_are_answered_as_alone(self, fit: str, cores: dict[str, bytes]) -> None:
        run = runner(self.taken(cores["fp32"], how(fit))[0])
        photos = [draw(50, 70, seed) for seed in range(3)]
        alone = np.concatenate([run(bgr(photo)) for photo in photos])
        np.testing.assert_allclose(run(bgr(*photos)), alone, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_the_answer_is_that_of_the_image(self, precision: str, cores: dict[str, bytes]) -> None:
        model, made = self.taken(cores[precision], how("pad"))
        photo = draw(90, 120)
        (image,) = runner(inner(read(made)))(bgr(photo))
        expected = runner(take_images(read(made), made.input))(image[None])
        np.testing.assert_allclose(runner(model)(bgr(photo)), expected, rtol=1e-4, atol=1e-4)


class TestModelInfo:
    def test_the_ir_says_how_it_is_to_be_used(self, cores: dict[str, bytes]) -> None:
        model = read(compile_graph(cores["fp32"], ModelInfo(labels=LABELS, preprocess=how())))
        said = {
            key: model.get_rt_info(["model_info", key]).astype(str) for key in model.get_rt_info("model_info").value
        }
        assert said == {
            "model_type": "Classification",
            "embedded_processing": "True",
            "orig_height": str(SIDE),
            "orig_width": str(SIDE),
            "labels": "red_apple banana cherry_&_co",
            "output_raw_scores": "True",
        }

    def test_an_ir_without_it_says_nothing(self, cores: dict[str, bytes]) -> None:
        assert not read(compile_graph(cores["fp32"])).has_rt_info(["model_info", "model_type"])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (LABELS[:2], r"the graph tells 3 classes apart, but has 2 labels"),
            ((*LABELS, "date"), r"the graph tells 3 classes apart, but has 4 labels"),
            (("apple", " \t", "cherry"), r"label 1 is blank, and Model API would skip it\. Name it"),
        ],
    )
    def test_labels_that_do_not_fit_are_refused(
        self, labels: tuple[str, ...], message: str, cores: dict[str, bytes]
    ) -> None:
        with pytest.raises(ExportError, match=message):
            compile_graph(cores["fp32"], ModelInfo(labels=labels, preprocess=how()))

    def test_a_preprocessing_of_another_size_is_refused(self, cores: dict[str, bytes]) -> None:
        other = how().model_copy(update={"border": Border(top=1)})
        message = r"the graph reads images of 34x34, but the preprocessing makes 33x32"
        with pytest.raises(ExportError, match=message):
            compile_graph(cores["fp32"], ModelInfo(labels=LABELS, preprocess=other))

    @pytest.mark.filterwarnings("ignore")  # those of its own imports
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    @pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
    def test_model_api_answers_as_edgetl_with_nothing_but_the_file(
        self, fit: str, precision: str, cores: dict[str, bytes], tiny_photos: tuple[Path, ...], tmp_path: Path
    ) -> None:
        models = pytest.importorskip("model_api.models", reason="needs OpenVINO's Model API (openvino_model_api)")
        cv2 = pytest.importorskip("cv2", reason="needs OpenCV, which Model API's photos come from")
        made = compile_graph(cores[precision], ModelInfo(labels=LABELS, preprocess=how(fit)))
        (tmp_path / "model.xml").write_bytes(made.content.graph)
        (tmp_path / "model.bin").write_bytes(made.content.weights or b"")
        model = models.ClassificationModel.create_model(
            str(tmp_path / "model.xml"), device="CPU", core=the_core("test")
        )
        run = runner(take_images(read(made), made.input))
        for path in tiny_photos:
            expected = softmax(run(preprocess(open_photo(path), how(fit))[None])[0])
            answer = model(cv2.imread(str(path)))
            np.testing.assert_allclose(np.ravel(answer.raw_scores), expected, atol=0.03)
            assert answer.top_labels[0].name == "_".join(LABELS[int(expected.argmax())].split())
