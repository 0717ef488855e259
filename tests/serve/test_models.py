"""Tests of loading, replacing and unloading what is served, on a server that runs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgetl.bundle import Bundle
from tests.serve.conftest import Answer, Running, Start

TOKEN = "f" * 32
OLD, NEW = "a" * 64, "b" * 64
MakeBundle = Callable[..., Bundle]


@pytest.fixture
def swapped(start_server: Start, make_bundle: MakeBundle, tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """Return a server of a bundle that a test may replace, and the bundle's folder."""
    folder = make_bundle(tmp_path / "sorter", build=OLD).folder
    (tmp_path / "token").write_text(TOKEN)
    with start_server(folder, "--token-file", tmp_path / "token") as running:
        yield running, folder


def ask(server: Running, path: str, body: bytes = b"", method: str = "POST") -> Answer:
    return server.ask(method, path, body, authorization=f"Bearer {TOKEN}")


def replace(folder: Path, make_bundle: MakeBundle, build: str) -> None:
    """Let another bundle take a bundle's place, as a build does."""
    make_bundle(folder, build=build)


class TestLoading:
    def test_the_new_bundle_answers_after_it_was_loaded(
        self, swapped: tuple[Running, Path], make_bundle: MakeBundle, tiny_photos: tuple[Path, ...]
    ) -> None:
        server, folder = swapped
        replace(folder, make_bundle, NEW)
        assert ask(server, "/predict", tiny_photos[0].read_bytes()).json["version"] == OLD[:12]
        assert ask(server, "/v2/repository/models/sorter/load").json == {"name": "sorter", "version": NEW[:12]}
        assert ask(server, "/predict", tiny_photos[0].read_bytes()).json["version"] == NEW[:12]

    def test_a_bundle_that_is_damaged_leaves_the_old_one_in_place(
        self, swapped: tuple[Running, Path], tiny_photos: tuple[Path, ...]
    ) -> None:
        server, folder = swapped
        content = (folder / "model.onnx").read_bytes()
        (folder / "model.onnx").write_bytes(content[:-1] + b"?")
        answer = ask(server, "/v2/repository/models/sorter/load")
        assert answer.status == 400
        assert "model.onnx" in answer.json["error"]
        assert ask(server, "/predict", tiny_photos[0].read_bytes()).json["version"] == OLD[:12]
        assert ask(server, "/v2/health/ready", method="GET").status == 200

    def test_no_request_fails_and_no_answer_is_mixed_while_models_are_replaced(
        self, swapped: tuple[Running, Path], make_bundle: MakeBundle, tiny_photos: tuple[Path, ...]
    ) -> None:
        server, folder = swapped
        body, stop = tiny_photos[0].read_bytes(), threading.Event()
        told: list[Answer] = []

        def hammer() -> None:
            while not stop.is_set():
                told.append(ask(server, "/predict", body))

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(10):
            replace(folder, make_bundle, (NEW, OLD)[turn % 2])
            assert ask(server, "/v2/repository/models/sorter/load").status == 200
        stop.set()
        for thread in threads:
            thread.join()
        assert {answer.status for answer in told} == {200}
        assert {answer.json["version"] for answer in told} == {OLD[:12], NEW[:12]}

    def test_a_folder_that_is_replaced_is_noticed(
        self, start_server: Start, make_bundle: MakeBundle, tmp_path: Path
    ) -> None:
        folder = make_bundle(tmp_path / "sorter", build=OLD).folder
        with start_server(folder, "--watch") as server:
            replace(folder, make_bundle, NEW)
            end = time.monotonic() + 20
            while time.monotonic() < end:
                version = server.ask("GET", "/v2/models/sorter").json["versions"][0]
                if version == NEW[:12]:
                    break
                time.sleep(0.2)
        assert version == NEW[:12]


class TestUnloading:
    def test_an_unloaded_model_answers_nothing_until_it_is_loaded(
        self, swapped: tuple[Running, Path], tiny_photos: tuple[Path, ...]
    ) -> None:
        server, _ = swapped
        body = tiny_photos[0].read_bytes()
        assert ask(server, "/v2/repository/models/sorter/unload").status == 200
        assert ask(server, "/predict", body).json == {"error": "model sorter is not loaded"}
        assert ask(server, "/v2/repository/index").json == [
            {"name": "sorter", "state": "UNAVAILABLE", "reason": "not loaded"}
        ]
        assert ask(server, "/v2/repository/models/sorter/load").status == 200
        assert ask(server, "/predict", body).status == 200

    @pytest.mark.parametrize("verb", ["load", "unload"])
    @pytest.mark.parametrize("name", ["other", "..", "%2e%2e", "sorter%2f..", "a" * 300])
    def test_no_name_leads_anywhere_else(self, verb: str, name: str, swapped: tuple[Running, Path]) -> None:
        server, _ = swapped
        assert ask(server, f"/v2/repository/models/{name}/{verb}").status in {404, 405}

    @pytest.mark.parametrize("verb", ["load", "unload"])
    def test_without_a_token_nobody_may(self, verb: str, server: Running) -> None:
        answer = server.ask("POST", f"/v2/repository/models/tiny/{verb}")
        assert answer.status == 403
        assert "by token only" in answer.json["error"]


def test_several_bundles_answer_by_name(
    start_server: Start, tiny_bundle: Path, tmp_path: Path, tiny_photos: tuple[Path, ...]
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "second")
    body = tiny_photos[0].read_bytes()
    with start_server(tiny_bundle, f"other={tmp_path / 'second'}") as server:
        assert server.ask("POST", "/predict", body).json["model"] == "tiny"
        assert server.ask("POST", "/predict?model=other", body).json["model"] == "other"
        assert server.ask("GET", "/v2/models/other").json["name"] == "other"
