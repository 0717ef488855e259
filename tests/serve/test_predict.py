"""Tests of POST /predict, against a server of its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl import Predictor
from tests.serve.conftest import Running


def multipart(*photos: bytes) -> tuple[bytes, str]:
    """Return the body of a form with a file for each photo, and its media type."""
    part = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n%s\r\n'
    return b"".join(part % photo for photo in photos) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


class TestAnswers:
    def test_a_photo_is_answered_as_the_predictor_answers_it(
        self, server: Running, tiny_bundle: Path, tiny_photos: tuple[Path, ...]
    ) -> None:
        with Predictor.open(tiny_bundle) as predictor:
            for photo in tiny_photos:
                expected = predictor.predict(photo)
                answer = server.ask("POST", "/predict", photo.read_bytes())
                assert answer.status == 200
                (found,) = answer.json["predictions"]
                assert [each["label"] for each in found["scores"]] == [each.label for each in expected.scores]
                assert found["score"] == pytest.approx(expected.score, abs=1e-6)
                assert found["label"] == expected.label

    def test_it_says_which_model_answered_and_where_the_time_went(
        self, server: Running, tiny_photos: tuple[Path, ...]
    ) -> None:
        told = server.ask("POST", "/predict", tiny_photos[0].read_bytes()).json
        assert (told["model"], told["version"]) == ("tiny", "0" * 12)
        assert set(told["time_ms"]) == {"queue", "decode", "preprocess", "inference", "postprocess"}
        assert all(spent >= 0 for spent in told["time_ms"].values())

    def test_several_photos_come_in_a_form_and_are_answered_in_order(
        self, server: Running, tiny_photos: tuple[Path, ...]
    ) -> None:
        body, media_type = multipart(*(photo.read_bytes() for photo in tiny_photos))
        together = server.ask("POST", "/predict", body, content_type=media_type).json["predictions"]
        alone = [server.ask("POST", "/predict", photo.read_bytes()).json["predictions"][0] for photo in tiny_photos]
        assert [one["scores"][0]["label"] for one in together] == [one["scores"][0]["label"] for one in alone]
        assert [one["score"] for one in together] == pytest.approx([one["score"] for one in alone], abs=1e-5)

    @pytest.mark.parametrize(("query", "count"), [("?top=1", 1), ("?top=2", 2), ("", 3), ("?top=99", 3)])
    def test_top_says_how_many_labels(
        self, query: str, count: int, server: Running, tiny_photos: tuple[Path, ...]
    ) -> None:
        answer = server.ask("POST", f"/predict{query}", tiny_photos[0].read_bytes())
        assert len(answer.json["predictions"][0]["scores"]) == count

    def test_a_request_keeps_the_id_that_it_came_with(self, server: Running, tiny_photos: tuple[Path, ...]) -> None:
        answer = server.ask("POST", "/predict", tiny_photos[0].read_bytes(), x_request_id="mine-1")
        assert answer.headers["x-request-id"] == "mine-1"

    def test_a_request_without_an_id_gets_one_of_its_own(self, server: Running) -> None:
        ids = {server.ask("GET", "/v2/health/live").headers["x-request-id"] for _ in range(3)}
        assert len(ids) == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"", "the body is empty"),
            (b"no picture", "not a picture in a format that is read (JPEG, PNG, WEBP)"),
            (b"BM" + bytes(100), "not a picture"),
        ],
    )
    def test_what_is_no_photo_is_the_clients_fault(self, body: bytes, said: str, server: Running) -> None:
        answer = server.ask("POST", "/predict", body)
        assert answer.status == 400
        assert said in answer.json["error"]

    def test_a_photo_that_is_cut_off_is_refused(self, server: Running, tiny_photos: tuple[Path, ...]) -> None:
        answer = server.ask("POST", "/predict", tiny_photos[0].read_bytes()[:200])
        assert answer.status == 400
        assert "cannot be decoded" in answer.json["error"]

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("?" + "&".join("top=1" for _ in range(17)), "more than 16 fields"),
            ("?top=0", "top must be a whole number from 1 on, found '0'"),
            ("?top=-1", "top must be"),
            ("?top=many", "top must be"),
            ("?topp=1", "query 'topp' is not known. Known: top, model"),
        ],
    )
    def test_a_query_that_means_nothing_is_refused(self, query: str, said: str, server: Running) -> None:
        answer = server.ask("POST", f"/predict{query}", b"x")
        assert (answer.status, said in answer.json["error"]) == (400, True)

    def test_a_model_that_is_not_served_is_named_with_those_that_are(self, server: Running) -> None:
        answer = server.ask("POST", "/predict?model=other", b"x")
        assert answer.status == 404
        assert answer.json == {"error": "no model is called 'other' here. Known: tiny"}

    def test_a_body_that_is_too_large_is_refused_by_what_it_says(self, server: Running) -> None:
        answer = server.ask("POST", "/predict", b"x", content_length=str((16 << 20) + 1))
        assert answer.status == 413
        assert "larger than 16777216 bytes" in answer.json["error"]

    @pytest.mark.parametrize(
        ("body", "media_type", "said"),
        [
            (b"x", "multipart/form-data", "needs a boundary"),
            (b"--edge\r\n", "multipart/form-data; boundary=edge", "cut off, or holds no photo"),
            (multipart(b"photo")[0][:-12], "multipart/form-data; boundary=edge", "cut off"),
            (b"no form at all", "multipart/form-data; boundary=edge", "not multipart/form-data"),
        ],
    )
    def test_a_broken_form_is_refused(self, body: bytes, media_type: str, said: str, server: Running) -> None:
        answer = server.ask("POST", "/predict", body, content_type=media_type)
        assert (answer.status, said in answer.json["error"]) == (400, True)

    @pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/nothing", 404)])
    def test_other_ways_are_refused_with_an_error_in_json(
        self, method: str, path: str, status: int, server: Running
    ) -> None:
        answer = server.ask(method, path)
        assert answer.status == status
        assert set(answer.json) == {"error"}
