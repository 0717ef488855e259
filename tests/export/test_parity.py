"""Tests of edgetl/export/parity.py: what it lets pass, and that it catches the usual faults."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgetl.bundle import Artifact, Parity, Rung
from edgetl.compile import compile_graph
from edgetl.errors import ExportError, ParityError
from edgetl.export import check_engine, check_rung, export_graph, measure_parity
from edgetl.export.parity import MAX_RELATIVE_ERROR
from edgetl.metrics import Drop
from edgetl.records import Execution, FloatArray, ImageArray, Preprocess
from edgetl.runtime import open_artifact, paint_border

HOW = Preprocess(side=32, fit="squash", mean=(124, 116, 104), std=(58.4, 57.1, 57.4))
REFUSED = (
    r"rung .faced.: the graph computes something else than the trained network: relative error [\d.e+-]+ "
    r"\(at most 0\.001\), "
    r"top-1 agreement [\d.]+ % \(must be 100 %\) on 16 images\. No bundle was written"
)


EQUAL = Parity(max_relative_error=0.0, mean_relative_error=0.0, cosine=1.0, top1_agreement=1.0, near_ties=0, images=16)


def rung(parity: Parity) -> Rung:
    return Rung(name="faced", answered_by="the graph", against="the trained network", parity=parity)


def logits(*rows: tuple[float, ...]) -> FloatArray:
    return np.array(rows, dtype=np.float32)


class TestMeasure:
    def test_the_error_is_relative_to_the_largest_reference_logit(self) -> None:
        found = measure_parity(logits((1, -4), (2, 0)), logits((1, -4), (2, 0.02)))
        assert found.max_relative_error == pytest.approx(0.005)
        assert (found.top1_agreement, found.images) == (1.0, 2)

    def test_equal_logits_have_no_error(self) -> None:
        same = logits((1, 2), (3, -4))
        assert measure_parity(same, same) == EQUAL.model_copy(update={"images": 2})

    def test_the_mean_error_is_over_all_logits(self) -> None:
        assert measure_parity(logits((1, -4), (2, 0)), logits((1, -4), (2, 0.02))).mean_relative_error == pytest.approx(
            0.005 / 4
        )

    def test_the_cosine_is_that_of_the_image_that_is_farthest_off(self) -> None:
        found = measure_parity(logits((1, 0), (3, 4)), logits((2, 0), (4, 3)))
        assert found.cosine == pytest.approx(24 / 25)

    def test_a_network_that_answers_zero_has_no_error_against_itself(self) -> None:
        found = measure_parity(logits((0, 0)), logits((0, 0)))
        assert (found.max_relative_error, found.cosine) == (0.0, 1.0)

    def test_a_near_tie_that_tips_over_counts_as_agreement(self) -> None:
        # The largest logit is 10, so logits closer than 0.02 are a near-tie.
        found = measure_parity(logits((10.0, 9.981)), logits((9.99, 9.991)))
        assert (found.top1_agreement, found.near_ties) == (1.0, 1)

    def test_what_is_no_near_tie_counts_as_disagreement(self) -> None:
        found = measure_parity(logits((10.0, 9.979), (1, 0)), logits((9.98, 9.99), (1, 0)))
        assert (found.top1_agreement, found.near_ties) == (0.5, 0)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_logits_that_are_not_finite_are_refused(self, bad: float) -> None:
        with pytest.raises(ParityError, match="the artifact gives logits that are not finite"):
            measure_parity(logits((1, 2)), logits((1, bad)))

    @pytest.mark.parametrize("shape", [(1, 2), (2, 3), (2,), (3, 2)])
    def test_logits_of_another_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(
            ParityError, match=r"the artifact gives logits of shape \(.*\), the trained network \(2, 2\)"
        ):
            measure_parity(logits((1, 2), (3, 4)), np.zeros(shape, dtype=np.float32))


class TestCheck:
    def test_what_lies_on_the_limit_will_do(self) -> None:
        check_rung(rung(EQUAL.model_copy(update={"max_relative_error": MAX_RELATIVE_ERROR})))

    @pytest.mark.parametrize(("error", "agreement"), [(0.00101, 1.0), (0.0, 0.99), (float("nan"), 1.0)])
    def test_what_lies_beyond_it_is_refused(self, error: float, agreement: float) -> None:
        with pytest.raises(ParityError, match="the graph computes something else than the trained network"):
            check_rung(rung(EQUAL.model_copy(update={"max_relative_error": error, "top1_agreement": agreement})))

    def test_a_trained_network_that_answers_nan_is_refused(self) -> None:
        with pytest.raises(ParityError, match="computes something else"):
            check_rung(rung(measure_parity(logits((np.nan, 1)), logits((0, 1)))))


class TestCheckEngine:
    """An engine may round, and no more."""

    @staticmethod
    def drop(points: float = 0.0, p_value: float = 1.0) -> Drop:
        return Drop(images=16, lost=0, gained=0, points=points, interval=(0.0, 0.0), p_value=p_value)

    @pytest.mark.parametrize(
        ("changed", "drop"),
        [
            ({}, drop()),
            ({"mean_relative_error": 0.05, "max_relative_error": 0.3, "top1_agreement": 0.9}, drop()),
            ({}, drop(points=3.0, p_value=0.06)),
            ({}, drop(points=-3.0, p_value=0.01)),
        ],
        ids=["equal", "on the limits", "by chance", "gained"],
    )
    def test_what_rounding_and_chance_explain_will_do(self, changed: dict[str, float], drop: Drop) -> None:
        climbed = rung(EQUAL.model_copy(update=changed))
        assert check_engine(climbed, 0.05, drop) is climbed

    @pytest.mark.parametrize(
        ("changed", "drop"),
        [
            ({"mean_relative_error": 0.051}, drop()),
            ({"mean_relative_error": float("nan")}, drop()),
            ({"top1_agreement": 0.89}, drop()),
            ({}, drop(points=0.1, p_value=0.04)),
        ],
        ids=["logits", "no number", "answers", "accuracy"],
    )
    def test_what_they_do_not_explain_is_refused(self, changed: dict[str, float], drop: Drop) -> None:
        with pytest.raises(
            ParityError, match=r"rung 'faced': the graph .* mean relative error .* It parts at Conv 'x'\."
        ):
            check_engine(rung(EQUAL.model_copy(update=changed)), 0.05, drop, lambda: "Conv 'x'")

    def test_a_search_that_fails_does_not_hide_that_they_part(self) -> None:
        def find() -> str:
            raise ExportError("this engine cannot be cut")

        message = r"Where it parts could not be found: this engine cannot be cut\. No bundle"
        with pytest.raises(ParityError, match=message):
            check_engine(rung(EQUAL.model_copy(update={"top1_agreement": 0.0})), 0.05, self.drop(), find)


def build(change: Callable[[nn.Module], object] = lambda module: None) -> nn.Sequential:
    """Return the trained network, the same at each call, after a change."""
    torch.manual_seed(2)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    module.eval()
    with torch.no_grad():
        change(module)
    return module


def photos() -> ImageArray:
    draw = np.random.default_rng(9)
    colours = draw.integers(30, 226, (16, 1, 1, 3))
    return (colours + draw.integers(-30, 30, (16, 32, 32, 3))).astype(np.uint8)


def trained(module: nn.Module) -> FloatArray:
    normalised = (photos() - np.array(HOW.mean)) / np.array(HOW.std)
    with torch.no_grad():
        answers: FloatArray = module(torch.from_numpy(normalised.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    return answers


def shipped(
    module: nn.Module,
    how: Preprocess = HOW,
    images: ImageArray | None = None,
    border: tuple[int, int, int] | None = None,
) -> FloatArray:
    """Return what the artifact of this module answers, through every step that a build takes."""
    exported = export_graph(module, how, "torchscript")
    painted = exported.preprocess.model_copy(update={"mean": border or how.mean})
    compiled = compile_graph(exported.model.SerializeToString(), "onnxruntime")
    artifact = Artifact(
        path="model.onnx",
        engine="onnxruntime",
        precision="fp32",
        execution=Execution(threads=1),
        input=compiled.input,
        output=compiled.output,
    )
    given = photos() if images is None else images
    return open_artifact(compiled.content, artifact).run(np.stack([paint_border(image, painted) for image in given]))


def change_one_weight(module: nn.Module) -> None:
    module[3].weight[0, 0, 0, 0] += 0.5


class TestFaults:
    def check(self, found: FloatArray) -> None:
        check_rung(rung(measure_parity(trained(build()), found)))

    def test_a_right_artifact_passes(self) -> None:
        self.check(shipped(build()))

    @pytest.mark.parametrize(
        "mean", [(104, 116, 124), (123, 116, 104), (0, 0, 0)], ids=["reversed", "one level off", "none"]
    )
    def test_a_wrong_mean_is_caught(self, mean: tuple[int, int, int]) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build(), HOW.model_copy(update={"mean": mean})))

    def test_a_wrong_std_is_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build(), HOW.model_copy(update={"std": (57.4, 57.1, 58.4)})))

    def test_bgr_for_rgb_is_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build(), images=photos()[..., ::-1]))

    def test_a_mirrored_photo_is_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build(), images=photos()[:, :, ::-1]))

    def test_a_border_that_is_painted_in_another_colour_is_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build(), border=(0, 0, 0)))

    def test_one_changed_weight_is_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build(change_one_weight)))

    def test_labels_in_another_order_are_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build())[:, ::-1])

    def test_photos_in_another_order_are_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build())[::-1])

    def test_batch_norm_in_training_mode_is_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(trained(build().train()))

    def test_a_lost_bias_is_caught(self) -> None:
        with pytest.raises(ParityError, match=REFUSED):
            self.check(shipped(build(lambda module: module[6].bias.zero_())))
