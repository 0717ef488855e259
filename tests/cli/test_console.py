"""Tests of edgetl/cli/console.py."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from edgetl.cli.console import Shown, remember_interrupt


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Ctrl-C be remembered, and everything be as before afterwards."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Shown, "stopped", False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    remember_interrupt()
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c_where_it_is_dropped() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return
    pytest.fail("Ctrl-C did not interrupt at once")


def say(shown: Shown) -> None:
    shown.say("a line")


def count(shown: Shown) -> None:
    with shown.count("photos", 2) as advance:
        advance(1)


def track(shown: Shown) -> None:
    list(shown.track([1, 2], "photos", 2))


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("show", [say, count, track])
def test_ctrl_c_that_was_dropped_stops_at_the_next_sign_of_progress(
    show: Callable[[Shown], None], terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown()
    monkeypatch.setattr(shown._console, "_force_terminal", terminal)
    show(shown)
    press_ctrl_c_where_it_is_dropped()
    with pytest.raises(KeyboardInterrupt):
        show(shown)


def test_what_was_started_to_ignore_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        remember_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
