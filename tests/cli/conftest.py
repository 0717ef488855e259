"""Runs `edgetl` in this process, for the tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def edgetl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Return a function that runs a command: edgetl("verify", folder)."""
    from edgetl.cli.app import main

    def run(*words: object) -> Ran:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["edgetl", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        seen = capsys.readouterr()
        return Ran(code=int(left.value.code or 0), out=seen.out, err=seen.err)

    return run
