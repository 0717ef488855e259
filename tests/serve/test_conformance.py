"""The server as strangers' tools see it: Triton's own client, and Schemathesis on the OpenAPI description."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import Bundle
from edgetl.runtime import Predictor
from tests.serve.conftest import Running, Start

TOKEN = "c" * 32


class TestTriton:
    @pytest.fixture
    def triton(self) -> Any:
        return pytest.importorskip("tritonclient.http", reason="tritonclient[http] is the independent client")

    @pytest.fixture
    def images(self, tiny_bundle: Path) -> Any:
        return np.load(tiny_bundle / "golden" / "inputs.npy")

    @pytest.fixture
    def expected(self, tiny_bundle: Path, images: Any) -> Any:
        with Predictor.open(tiny_bundle) as predictor:
            return predictor.session.run(images)

    def test_it_learns_what_there_is(self, triton: Any, server: Running) -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.get_server_metadata()["name"] == "edgetl"
        (image,) = client.get_model_metadata("tiny")["inputs"]
        assert image == {"name": "image", "datatype": "UINT8", "shape": [-1, 33, 33, 3]}
        (told,) = client.get_model_repository_index()
        assert (told["name"], told["state"]) == ("tiny", "READY")
        with pytest.raises(triton.InferenceServerException, match="no model is called 'other' here"):
            client.get_model_metadata("other")

    @pytest.mark.parametrize("binary_in", [False, True])
    @pytest.mark.parametrize("binary_out", [False, True])
    def test_it_sends_tensors_both_ways(
        self, triton: Any, server: Running, images: Any, expected: Any, binary_in: bool, binary_out: bool
    ) -> None:
        sent = triton.InferInput("image", images.shape, "UINT8")
        sent.set_data_from_numpy(images, binary_data=binary_in)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("logits", "scores")]
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        answer = client.infer("tiny", [sent], outputs=wanted, request_id="seven")
        assert answer.get_response()["id"] == "seven"
        np.testing.assert_allclose(answer.as_numpy("logits"), expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(answer.as_numpy("scores").sum(axis=1), 1.0, rtol=1e-5)

    @pytest.mark.parametrize("binary", [False, True])
    def test_it_sends_photos_and_is_told_classes(
        self, triton: Any, server: Running, tiny_bundle: Path, tiny_photos: tuple[Path, ...], binary: bool
    ) -> None:
        photo = tiny_photos[0].read_bytes()
        sent = triton.InferInput("image", [1], "BYTES")
        content = photo if binary else base64.b64encode(photo)
        sent.set_data_from_numpy(np.array([content], dtype=object), binary_data=binary)
        wanted = triton.InferRequestedOutput("scores", class_count=2)
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        found = client.infer("tiny", [sent], outputs=[wanted]).as_numpy("scores")
        with Predictor.open(tiny_bundle) as predictor:
            best = predictor.predict(photo).scores[:2]
        assert [each.decode().split(":")[2] for each in found.flatten()] == [score.label for score in best]

    def test_what_it_packs_is_refused_with_the_reason(self, triton: Any, server: Running, images: Any) -> None:
        sent = triton.InferInput("image", images.shape, "UINT8")
        sent.set_data_from_numpy(images)
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        with pytest.raises(triton.InferenceServerException, match="without a Content-Encoding"):
            client.infer("tiny", [sent], request_compression_algorithm="gzip")

    def test_it_loads_and_unloads(self, triton: Any, start_server: Start, tiny_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(TOKEN)
        how = {"headers": {"Authorization": f"Bearer {TOKEN}"}}
        with start_server(tiny_bundle, "--token-file", tmp_path / "token") as running:
            client = triton.InferenceServerClient(f"127.0.0.1:{running.port}")
            client.unload_model("tiny", **how)
            assert not client.is_model_ready("tiny", **how)
            client.load_model("tiny", **how)
            assert client.is_model_ready("tiny", **how)


@pytest.mark.parametrize("examples", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_schemathesis_finds_nothing(examples: int, start_server: Start, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis asks what the OpenAPI description allows, and what not")
    name, version = "tiny", Bundle.open(tiny_bundle).manifest.build[:12]
    (tmp_path / "token").write_text(TOKEN)
    # The paths lead somewhere, or nothing but 404 would be seen.
    (tmp_path / "schemathesis.toml").write_text(f'[parameters]\n"path.name" = "{name}"\n"path.version" = "{version}"\n')
    # What is unloaded answers nothing more: others test that.
    # No schema can say which bytes are a photo; that those are taken is what the other tests are for.
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml", "run",
        "--exclude-checks", "positive_data_acceptance", "--max-examples", str(examples), "--seed", "1", "--no-color",
        "--exclude-path-regex", "unload$", "--header", f"Authorization: Bearer {TOKEN}",
    ]  # fmt: skip
    assert shutil.which(command[0])
    with start_server(tiny_bundle, "--token-file", tmp_path / "token") as running:
        ran = subprocess.run(
            [*command, f"http://127.0.0.1:{running.port}/openapi.json"],
            cwd=tmp_path, check=False, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    counted = re.search(r"(\d+) generated, \1 passed", ran.stdout)
    assert counted is not None
    assert int(counted[1]) > 100
