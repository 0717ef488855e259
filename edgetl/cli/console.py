"""What every verb shows: progress and complaints on stderr, results on stdout."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["Shown", "complain", "out", "print_json", "remember_interrupt"]

Item = TypeVar("Item")

# Names of files and classes are shown as they are, brackets and colons included.
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
_err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def complain(line: str) -> None:
    """Show an error."""
    _err.print(Text.assemble(("edgetl: ", "bold red"), line))


def print_json(result: BaseModel | dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    plain = result.model_dump(mode="json", by_alias=True) if isinstance(result, BaseModel) else result
    out.file.write(json.dumps(plain, indent=2) + "\n")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:,.1f}/s")


def remember_interrupt() -> None:
    """Let Ctrl-C stop what runs at its next sign of progress, where Python or a library drops the exception: it does so
    where that is raised in a destructor or in a callback."""

    def stop(number: int, frame: FrameType | None) -> None:
        Shown.stopped = True
        signal.default_int_handler(number, frame)

    # What was started to ignore Ctrl-C goes on ignoring it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)


class Shown:
    """A Progress on stderr: a bar with a rate while something runs, a line when something is said.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before.
    """

    # Whether Ctrl-C was pressed.
    stopped: ClassVar[bool] = False

    def __init__(self) -> None:
        self._console = _err

    @contextmanager
    def count(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar until the block ends."""
        if not self._console.is_terminal:
            started, done = time.monotonic(), 0

            def advance(more: int) -> None:
                nonlocal done
                done += more
                self._stop_if_asked()

            yield advance
            passed = max(time.monotonic() - started, 1e-9)
            self.say(f"{what}: {done} in {passed:.1f} s, {done / passed:,.1f}/s")
            return
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
            TimeRemainingColumn(), console=self._console, transient=True,
        ) as bar:  # fmt: skip
            task = bar.add_task(what, total=total)

            def move(more: int) -> None:
                bar.advance(task, more)
                self._stop_if_asked()

            yield move

    def track(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """Yield the items, counting them."""
        with self.count(what, total) as advance:
            for item in items:
                yield item
                advance(1)

    def say(self, line: str) -> None:
        """Show one line."""
        self._console.print(Text(line, style="dim"))
        self._stop_if_asked()

    @classmethod
    def _stop_if_asked(cls) -> None:
        if cls.stopped:
            raise KeyboardInterrupt
