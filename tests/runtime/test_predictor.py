"""Tests of edgetl/runtime/predictor.py."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.errors import BundleError, DataError, SessionError, SettingsError
from edgetl.records import Preprocess
from edgetl.runtime import Predictor, open_photo, preprocess, softmax


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Iterator[Predictor]:
    with Predictor.open(tiny_bundle) as opened:
        yield opened


class TestOneAnswer:
    def test_it_is_the_softmax_of_the_sessions_logits(
        self, predictor: Predictor, tiny_photos: tuple[Path, ...], tiny_how: Preprocess
    ) -> None:
        image = preprocess(open_photo(tiny_photos[0]), tiny_how)
        expected = softmax(predictor.session.run(image[None])[0])
        found = {score.label: score.score for score in predictor.predict(tiny_photos[0]).scores}
        assert found == dict(zip(("apple", "banana", "cherry"), expected.tolist(), strict=True))

    def test_path_text_bytes_pillow_image_and_array_are_answered_alike(
        self, predictor: Predictor, tiny_photos: tuple[Path, ...]
    ) -> None:
        for path in tiny_photos:
            photo = open_photo(path)
            ways = (path, str(path), path.read_bytes(), photo, np.asarray(photo))
            answers = {predictor.predict(way).scores for way in ways}
            assert len(answers) == 1

    def test_an_exact_format_changes_nothing(self, predictor: Predictor, tiny_photos: tuple[Path, ...]) -> None:
        file = io.BytesIO()
        open_photo(tiny_photos[0]).save(file, "PNG")
        assert predictor.predict(file.getvalue()).scores == predictor.predict(tiny_photos[0]).scores

    def test_photos_of_any_size_are_answered(self, predictor: Predictor) -> None:
        for size in ((1, 1), (500, 3), (33, 33), (640, 480)):
            assert len(predictor.predict(Image.new("RGB", size, "red")).scores) == 3

    def test_different_photos_are_answered_differently(
        self, predictor: Predictor, tiny_photos: tuple[Path, ...]
    ) -> None:
        assert len({predictor.predict(path).scores for path in tiny_photos}) == len(tiny_photos)

    @pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (3, 3), (5, 3)])
    def test_as_many_labels_as_asked_for_or_all_there_are(
        self, top: int, count: int, predictor: Predictor, tiny_photos: tuple[Path, ...]
    ) -> None:
        scores = predictor.predict(tiny_photos[0], top=top).scores
        assert len(scores) == count
        assert scores == predictor.predict(tiny_photos[0]).scores[:count]

    @pytest.mark.parametrize("top", [0, -1])
    def test_no_label_at_all_cannot_be_asked_for(
        self, top: int, predictor: Predictor, tiny_photos: tuple[Path, ...]
    ) -> None:
        with pytest.raises(SettingsError, match=f"top must be at least 1, found {top}"):
            predictor.predict(tiny_photos[0], top=top)

    def test_the_time_of_each_part_is_stated(self, predictor: Predictor, tiny_photos: tuple[Path, ...]) -> None:
        time = predictor.predict(tiny_photos[0]).time
        parts = (time.decode_ms, time.preprocess_ms, time.inference_ms, time.postprocess_ms)
        assert min(parts) > 0
        assert time.total_ms == pytest.approx(sum(parts))

    def test_a_photo_that_cannot_be_read_is_named(self, predictor: Predictor, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone\.jpg: no such file"):
            predictor.predict(tmp_path / "gone.jpg")


class TestABatch:
    def test_each_photo_is_answered_as_on_its_own_and_in_order(
        self, predictor: Predictor, tiny_photos: tuple[Path, ...]
    ) -> None:
        for path, found in zip(tiny_photos, predictor.predict_batch(tiny_photos), strict=True):
            alone = predictor.predict(path)
            assert [score.label for score in found.scores] == [score.label for score in alone.scores]
            assert [score.score for score in found.scores] == pytest.approx([score.score for score in alone.scores])

    def test_no_photo_has_no_answer(self, predictor: Predictor) -> None:
        assert predictor.predict_batch([]) == []

    def test_the_time_is_shared_equally(self, predictor: Predictor, tiny_photos: tuple[Path, ...]) -> None:
        assert len({answer.time for answer in predictor.predict_batch(tiny_photos)}) == 1

    def test_one_bad_photo_fails_the_batch_by_name(
        self, predictor: Predictor, tiny_photos: tuple[Path, ...], tmp_path: Path
    ) -> None:
        (tmp_path / "text.jpg").write_text("I am a text")
        with pytest.raises(DataError, match=r"text\.jpg: not a picture"):
            predictor.predict_batch([*tiny_photos, tmp_path / "text.jpg"])


class TestItsLife:
    def test_labels_are_in_the_order_of_the_logits(self, predictor: Predictor) -> None:
        assert predictor.labels == ("apple", "banana", "cherry")

    def test_after_the_block_it_is_closed(self, tiny_bundle: Path, tiny_photos: tuple[Path, ...]) -> None:
        with Predictor.open(str(tiny_bundle), threads=1) as predictor:
            predictor.predict(tiny_photos[0])
        with pytest.raises(SessionError, match="this session is closed"):
            predictor.predict(tiny_photos[0])

    def test_what_is_no_bundle_is_not_opened(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="not a bundle"):
            Predictor.open(tmp_path)

    def test_many_threads_share_one(self, predictor: Predictor, tiny_photos: tuple[Path, ...]) -> None:
        expected = [predictor.predict(path).scores for path in tiny_photos]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(predictor.predict, [*tiny_photos] * 8))
        assert [answer.scores for answer in found] == expected * 8
