"""Tests of the server's page, in Chromium with a camera that is not real."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Running, Start

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)  # fmt: skip


# What Chromium itself says of a photo that the server refuses.
REFUSED = "the server responded with a status of 400"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a browser, shared by the tests."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Any, server: Running) -> Iterator[Any]:
    """Return the page, as a phone shows it; what it complains of, or asks of others, fails the test."""
    context = browser.new_context(
        color_scheme=request.param, viewport={"width": 390, "height": 844}, permissions=["camera"]
    )
    opened = context.new_page()
    complaints: list[str] = []
    asked: set[str] = set()
    opened.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda sent: asked.add(sent.url.partition("://")[2].partition("/")[0]))
    opened.goto(f"http://127.0.0.1:{server.port}/")
    yield opened
    opened.close()
    context.close()
    assert [said for said in complaints if REFUSED not in said] == []
    assert {host for host in asked if host and not host.startswith("127.0.0.1:")} == set()


def test_it_says_what_is_on_a_photo_and_where_the_time_went(page: Any, tiny_photos: tuple[Path, ...]) -> None:
    page.set_input_files("#file", tiny_photos[0])
    page.wait_for_selector("#scores:not([hidden])")
    label = page.inner_text("#result p")
    assert label.split(",")[0] in {"apple", "banana", "cherry"}
    assert page.locator("#scores tbody tr").count() == 3
    assert "inference" in page.get_attribute("#split", "aria-label")
    assert page.inner_text("#name") == "tiny"


def test_it_shows_what_is_wrong_with_a_file_that_is_no_photo(page: Any, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no photo")
    page.set_input_files("#file", tmp_path / "no.jpg")
    page.wait_for_selector("#result .bad")
    assert "not a picture" in page.inner_text("#result")


def test_the_camera_is_answered_until_it_is_stopped(page: Any) -> None:
    page.click("#camera")
    page.wait_for_selector("#scores:not([hidden])")
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    page.click("#camera")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    assert page.is_hidden("#live")


def test_the_charts_follow_the_load(page: Any, tiny_photos: tuple[Path, ...]) -> None:
    page.set_input_files("#file", tiny_photos[0])
    page.wait_for_selector("#rate polyline", state="attached", timeout=10_000)
    assert "at most" in page.inner_text("#latency-now")


def test_nothing_is_cut_off_on_a_phone_and_everything_has_a_name(page: Any) -> None:
    page.wait_for_selector("#name:text-is('tiny')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    unnamed = """[...document.querySelectorAll('img, video, svg, input, select, button, meter')].filter((one) =>
        !(one.getAttribute('aria-label') || one.alt || one.textContent.trim() || one.labels?.length)
    ).map((one) => one.id)"""
    assert page.evaluate(unnamed) == []


def test_the_keyboard_reaches_the_photo_and_the_camera(page: Any) -> None:
    reached = set()
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"file", "camera", "card"} <= reached


def test_it_says_that_something_else_answers_than_the_bundle_is_for(
    browser: Any, start_server: Start, elsewhere: Path
) -> None:
    with start_server(elsewhere, "--fallback") as running:
        opened = browser.new_page()
        opened.goto(f"http://127.0.0.1:{running.port}/")
        opened.wait_for_selector("#degraded:not([hidden])")
        assert "onnxruntime on cpu answers instead" in opened.inner_text("#degraded")
        opened.close()
