"""Tests of the Open Inference Protocol: its records, and a server that speaks it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import Bundle
from edgetl.records import ImageArray, TensorSpec
from edgetl.runtime import open_session
from tests.serve.conftest import Answer, Running

oip = pytest.importorskip("edgetl.serve.oip", reason="fastapi answers over HTTP")
RefusedError = oip.RefusedError

IMAGE = TensorSpec(name="image", dtype="uint8", shape=(-1, 4, 5, 3))
OUTPUTS = ("logits", "scores")
PIXELS: ImageArray = np.arange(120, dtype=np.uint8).reshape(2, 4, 5, 3)


def asking(**changed: Any) -> dict[str, Any]:
    """Return an inference request as JSON holds it, its input changed."""
    given = {"name": "image", "shape": [2, 4, 5, 3], "datatype": "UINT8", "data": PIXELS.ravel().tolist(), **changed}
    return {"inputs": [{name: value for name, value in given.items() if value is not None}]}


def read(body: dict[str, Any], rest: bytes = b"") -> Any:
    head = json.dumps(body).encode()
    return oip.read_request(head + rest, len(head) if rest else None, IMAGE, OUTPUTS)


class TestReading:
    def test_flat_and_nested_integers_are_the_same_image(self) -> None:
        for data in (PIXELS.ravel().tolist(), PIXELS.tolist()):
            np.testing.assert_array_equal(read(asking(data=data)).images, PIXELS)

    def test_a_binary_tensor_is_its_bytes(self) -> None:
        body = asking(data=None, parameters={"binary_data_size": 120})
        np.testing.assert_array_equal(read(body, PIXELS.tobytes()).images, PIXELS)

    def test_encoded_photos_come_as_base64_or_each_after_its_length(self) -> None:
        photos = (b"one", b"", b"three")
        text = [base64.b64encode(photo).decode() for photo in photos]
        assert read(asking(datatype="BYTES", shape=[3], data=text)).photos == photos
        rest = b"".join(len(photo).to_bytes(4, "little") + photo for photo in photos)
        body = asking(datatype="BYTES", shape=[3, 1], data=None, parameters={"binary_data_size": len(rest)})
        assert read(body, rest).photos == photos

    def test_all_outputs_are_given_where_none_is_asked_for(self) -> None:
        assert [one.name for one in read(asking()).outputs] == list(OUTPUTS)

    def test_an_output_says_for_itself_whether_it_is_binary(self) -> None:
        wanted = [{"name": "scores"}, {"name": "logits", "parameters": {"binary_data": False, "classification": 2}}]
        asked = {**asking(), "parameters": {"binary_data_output": True}, "outputs": wanted}
        assert [(one.name, one.binary, one.classes) for one in read(asked).outputs] == [
            ("scores", True, 0),
            ("logits", False, 2),
        ]

    def test_what_extensions_of_others_say_is_passed_over(self) -> None:
        assert read({**asking(), "id": "7", "parameters": {"priority": 3}, "sequence": 1}).id == "7"


class TestRefusals:
    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"name": "other"}, "one input is taken, 'image'; found 'other'"),
            ({"datatype": "FP32"}, "is UINT8 of shape (images, 4, 5, 3), or BYTES"),
            ({"shape": [2, 5, 4, 3]}, "has shape (images, 4, 5, 3) with 1 to 256 images, found [2, 5, 4, 3]"),
            ({"shape": [0, 4, 5, 3]}, "with 1 to 256 images"),
            ({"shape": [-1, 4, 5, 3]}, "shape.0: Input should be greater than or equal to 0"),
            ({"shape": [3, 4, 5, 3]}, "data must hold 180 integers"),
            ({"data": [256] * 120}, "integers from 0 to 255"),
            ({"data": [-1] * 120}, "integers from 0 to 255"),
            ({"data": [0.5] * 120}, "data must hold 120 integers"),
            ({"data": [True] * 120}, "data must hold 120 integers"),
            ({"data": ["1"] * 120}, "data must hold 120 integers"),
            ({"data": [[1, 2], [3]]}, "data does not hold an array"),
            ({"data": None}, "needs either `data` or the parameter `binary_data_size`"),
            ({"datatype": "BYTES", "shape": [1], "data": ["?"]}, "data must hold photos in base64"),
            ({"datatype": "BYTES", "shape": [2], "data": ["aa=="]}, "data must hold 2 strings"),
            ({"datatype": "BYTES", "shape": [1000], "data": ["aa=="]}, "holds 1000 photos, but 1 to 256 are taken"),
        ],
    )
    def test_an_input_that_does_not_fit_is_refused_with_what_does(self, changed: dict[str, Any], said: str) -> None:
        with pytest.raises(RefusedError) as refused:
            read(asking(**changed))
        assert (refused.value.status, said in str(refused.value)) == (400, True), str(refused.value)

    @pytest.mark.parametrize(
        ("rest", "size", "said"),
        [
            (bytes(119), 119, "takes 120 bytes, but 119 follow"),
            (bytes(121), 120, "121 bytes follow the JSON object, but binary_data_size says 120"),
        ],
    )
    def test_binary_tensors_must_be_as_long_as_they_say(self, rest: bytes, size: int, said: str) -> None:
        with pytest.raises(RefusedError, match=said):
            read(asking(data=None, parameters={"binary_data_size": size}), rest)

    def test_an_encoded_photo_must_be_as_long_as_it_says(self) -> None:
        rest = (100).to_bytes(4, "little") + b"short"
        body = asking(datatype="BYTES", shape=[1], data=None, parameters={"binary_data_size": len(rest)})
        with pytest.raises(RefusedError, match="longer than the bytes that follow"):
            read(body, rest)

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"", "no JSON object"),
            (b"[]", "the body: Input should be"),
            (b"{}", "inputs: Field required"),
            (b'{"inputs": []}', "inputs: List should have at least 1 item"),
            (b"\xff\xfe", "no JSON object"),
            (b"[" * 200_000, "nested too deep"),
        ],
    )
    def test_what_is_no_request_is_refused(self, body: bytes, said: str) -> None:
        with pytest.raises(RefusedError) as refused:
            oip.read_request(body, None, IMAGE, OUTPUTS)
        assert said in str(refused.value)

    @pytest.mark.parametrize("length", [0, 99])
    def test_a_header_that_says_more_than_there_is_is_refused(self, length: int) -> None:
        with pytest.raises(RefusedError, match=f"Content-Length is {length}, but the body has 2 bytes"):
            oip.read_request(b"{}", length, IMAGE, OUTPUTS)

    def test_an_output_that_is_not_there_is_named_with_those_that_are(self) -> None:
        with pytest.raises(RefusedError, match=r"output 'boxes' is not known. Known: logits, scores"):
            read({**asking(), "outputs": [{"name": "boxes"}]})


class TestServer:
    @pytest.fixture
    def images(self, tiny_bundle: Path) -> ImageArray:
        images: ImageArray = np.load(tiny_bundle / "golden" / "inputs.npy")
        return images

    def infer(self, server: Running, body: dict[str, Any], rest: bytes = b"", path: str = "tiny") -> Answer:
        head = json.dumps(body).encode()
        headers = {"inference_header_content_length": str(len(head))} if rest else {}
        return server.ask("POST", f"/v2/models/{path}/infer", head + rest, **headers)

    def test_it_answers_with_the_logits_of_the_engine(
        self, server: Running, images: ImageArray, tiny_bundle: Path
    ) -> None:
        given = {"name": "image", "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}
        answer = self.infer(server, {"id": "42", "inputs": [given]})
        assert answer.status == 200
        told = answer.json
        assert (told["model_name"], told["model_version"], told["id"]) == ("tiny", "0" * 12, "42")
        logits, scores = told["outputs"]
        session = open_session(Bundle.open(tiny_bundle))
        expected = session.run(images)
        session.close()
        assert (logits["name"], logits["datatype"], logits["shape"]) == ("logits", "FP32", list(expected.shape))
        np.testing.assert_allclose(np.reshape(logits["data"], expected.shape), expected, rtol=1e-5)
        np.testing.assert_allclose(np.reshape(scores["data"], expected.shape).sum(axis=1), 1, rtol=1e-5)

    def test_binary_tensors_go_both_ways(self, server: Running, images: ImageArray) -> None:
        size = {"binary_data_size": images.size}
        given = {"name": "image", "shape": list(images.shape), "datatype": "UINT8", "parameters": size}
        wanted = [{"name": "logits", "parameters": {"binary_data": True}}]
        binary = self.infer(server, {"inputs": [given], "outputs": wanted}, images.tobytes())
        head = int(binary.headers["inference-header-content-length"])
        (told,) = json.loads(binary.body[:head])["outputs"]
        found = np.frombuffer(binary.body[head:], "<f4").reshape(told["shape"])
        plain = {**given, "data": images.tolist(), "parameters": {}}
        (expected,) = self.infer(server, {"inputs": [plain], "outputs": [{"name": "logits"}]}).json["outputs"]
        np.testing.assert_allclose(found.ravel(), expected["data"], rtol=1e-6)
        assert told["parameters"] == {"binary_data_size": found.nbytes}

    def test_classes_are_named_where_they_are_asked_for(self, server: Running, images: ImageArray) -> None:
        given = {"name": "image", "shape": [1, *images.shape[1:]], "datatype": "UINT8", "data": images[:1].tolist()}
        wanted = [{"name": "scores", "parameters": {"classification": 2}}]
        (told,) = self.infer(server, {"inputs": [given], "outputs": wanted}).json["outputs"]
        assert (told["datatype"], told["shape"]) == ("BYTES", [1, 2])
        values, places, labels = zip(*(text.split(":") for text in told["data"]), strict=True)
        assert float(values[0]) >= float(values[1])
        assert [("apple", "banana", "cherry")[int(place)] for place in places] == list(labels)

    def test_a_version_can_be_named_and_another_is_not_there(self, server: Running, images: ImageArray) -> None:
        body = {
            "inputs": [{"name": "image", "shape": list(images.shape), "datatype": "UINT8", "data": images.tolist()}]
        }
        assert self.infer(server, body, path=f"tiny/versions/{'0' * 12}").status == 200
        other = self.infer(server, body, path="tiny/versions/2")
        assert (other.status, other.json) == (404, {"error": f"model tiny has version {'0' * 12}, not '2'"})

    def test_it_tells_what_it_is_and_what_it_reads(self, server: Running) -> None:
        assert server.ask("GET", "/v2").json["extensions"] == [
            "binary_tensor_data",
            "classification",
            "model_repository",
        ]
        told = server.ask("GET", "/v2/models/tiny").json
        assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 33, 33, 3]}]
        assert [one["name"] for one in told["outputs"]] == ["logits", "scores"]
        assert server.ask("GET", "/v2/health/live").json == {"live": True}
        assert server.ask("GET", "/v2/health/ready").status == 200
        assert server.ask("GET", "/v2/models/tiny/ready").json == {"name": "tiny", "ready": True}
        assert server.ask("GET", "/v2/models/other/ready").status == 404
