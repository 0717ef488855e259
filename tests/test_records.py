from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from pydantic import ValidationError

from edgetl.records import Border, Latency, Prediction, Preprocess, Quiet, Record, Score, TensorSpec, TimeSplit

PREPROCESS: dict[str, Any] = {
    "side": 96,
    "fit": "squash",
    "crop_share": 0.875,
    "mean": (124, 116, 104),
    "std": (58.4, 57.1, 57.4),
    "border": {"top": 1, "left": 2, "bottom": 3, "right": 4},
}
TENSOR: dict[str, Any] = {"name": "image", "dtype": "uint8", "shape": (-1, 96, 96, 3)}
LATENCY: dict[str, Any] = {
    "p50_ms": 1.0,
    "p90_ms": None,
    "p99_ms": None,
    "mean_ms": 1.0,
    "count": 1,
    "samples_ms": (1.0,),
}
SAVED: list[tuple[type[Record], dict[str, Any]]] = [
    (TensorSpec, TENSOR),
    (Border, {"top": 1, "left": 2, "bottom": 3, "right": 4}),
    (Preprocess, PREPROCESS),
    (Latency, LATENCY),
]


@pytest.mark.parametrize(("kind", "content"), SAVED)
def test_a_saved_record_comes_back_equal(kind: type[Record], content: dict[str, Any]) -> None:
    record = kind.model_validate(content)

    assert kind.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(("kind", "content"), SAVED)
def test_a_saved_record_refuses_an_unknown_key(kind: type[Record], content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"heigth\s+Extra inputs are not permitted"):
        kind.model_validate({**content, "heigth": 1})


@pytest.mark.parametrize(("kind", "content"), SAVED)
def test_a_saved_record_cannot_be_changed(kind: type[Record], content: dict[str, Any]) -> None:
    record = kind.model_validate(content)

    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(record, next(iter(content)), 1)


def test_the_image_is_the_side_and_its_border() -> None:
    preprocess = Preprocess.model_validate(PREPROCESS)

    assert (preprocess.height, preprocess.width) == (96 + 1 + 3, 96 + 2 + 4)


def test_without_a_border_and_a_crop_the_whole_photo_is_used() -> None:
    preprocess = Preprocess(side=64, fit="crop", mean=(0, 0, 0), std=(255.0, 255.0, 255.0))

    assert (preprocess.height, preprocess.width, preprocess.crop_share) == (64, 64, 1.0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("side", 7, "greater than or equal to 8"),
        ("side", 4097, "less than or equal to 4096"),
        ("fit", "stretch", "'crop', 'squash' or 'pad'"),
        ("crop_share", 0.0, "greater than 0"),
        ("crop_share", 1.01, "less than or equal to 1"),
        ("mean", (0, 256, 0), "less than or equal to 255"),
        ("mean", (-1, 0, 0), "greater than or equal to 0"),
        ("mean", (124, 116.5, 104), "valid integer"),
        ("mean", (0, 0), "Field required"),
        ("std", (58.4, 0.0, 57.4), r"std must be positive and finite, found \(58.4, 0.0, 57.4\)"),
        ("std", (58.4, -1.0, 57.4), "std must be positive"),
        ("border", {"top": -1}, "greater than or equal to 0"),
    ],
)
def test_preprocessing_that_makes_no_image_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Preprocess.model_validate({**PREPROCESS, key: value})

    assert caught.value.error_count() == 1


@pytest.mark.parametrize("key", ["side", "fit", "mean", "std"])
def test_preprocessing_has_no_default_for_what_the_network_decides(key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key}\s+Field required"):
        Preprocess.model_validate({name: value for name, value in PREPROCESS.items() if name != key})


def test_a_tensor_of_another_type_is_refused() -> None:
    with pytest.raises(ValidationError, match="'uint8' or 'float32'"):
        TensorSpec.model_validate({**TENSOR, "dtype": "int4"})


def test_a_prediction_answers_with_its_most_likely_label() -> None:
    time = TimeSplit(decode_ms=4.0, preprocess_ms=1.5, inference_ms=2.0, postprocess_ms=0.25)
    prediction = Prediction(scores=(Score(label="glass", score=0.75), Score(label="metal", score=0.25)), time=time)

    assert (prediction.label, prediction.score) == ("glass", 0.75)
    assert prediction.time.total_ms == pytest.approx(7.75)


def test_a_travelling_record_cannot_be_changed() -> None:
    score = Score(label="glass", score=0.75)

    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'score'"):
        score.score = 1.0  # type: ignore[misc]


def test_quiet_progress_passes_every_item_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Quiet()
    progress.say("epoch 1")

    assert list(progress.track([3, 1, 2], "photos", 3)) == [3, 1, 2]
    assert capsys.readouterr() == ("", "")
