"""Tests of edgetl/cli/app.py and console.py: verbs, and how errors end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

from edgetl.cli.console import Shown
from edgetl.errors import EdgetlError, MissingError, ParityError, SettingsError

Run = Callable[..., Any]
VERBS = ["build", "predict", "verify", "bench", "targets"]


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*given: object) -> None:
        raise error

    return fail


class TestUse:
    def test_without_a_verb_the_verbs_are_listed(self, edgetl: Run) -> None:
        ran = edgetl()
        assert ran.code == 2
        assert all(f"  {verb} " in ran.err for verb in VERBS)

    def test_the_version_is_printed(self, edgetl: Run) -> None:
        assert edgetl("--version").out == f"edgetl {metadata.version('edgetl')}\n"

    def test_help_goes_to_stdout(self, edgetl: Run) -> None:
        ran = edgetl("--help")
        assert ran.code == 0
        assert all(f"  {verb} " in ran.out for verb in VERBS)

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_has_help_for_every_option(self, verb: str, edgetl: Run) -> None:
        ran = edgetl(verb, "--help")
        assert ran.code == 0
        assert "--json" in ran.out

    @pytest.mark.parametrize(("typed", "meant"), [("biuld", "build"), ("verfy", "verify"), ("target", "targets")])
    def test_an_unknown_verb_is_answered_with_the_nearest(self, typed: str, meant: str, edgetl: Run) -> None:
        ran = edgetl(typed)
        assert ran.code == 2
        assert ran.err == f"edgetl: No such command '{typed}'. Did you mean '{meant}'?\n"

    @pytest.mark.parametrize(
        ("typed", "meant"), [("--backbon", "--backbone"), ("--epoch", "--epochs"), ("--image_size", "--image-size")]
    )
    def test_an_unknown_option_is_answered_with_the_nearest(self, typed: str, meant: str, edgetl: Run) -> None:
        ran = edgetl("build", typed, "3")
        assert ran.code == 2
        assert ran.err.startswith(f"edgetl: unknown option {typed}. Did you mean {meant}")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("build", "--epochs", "many"), "Invalid value for '--epochs'"),
            (("build", "--data"), "Option '--data' requires an argument"),
            (("verify",), "Missing argument 'bundle'"),
            (("targets", "more"), "No such command 'more'"),
        ],
    )
    def test_wrong_use_is_told_in_a_line(self, words: tuple[str, ...], message: str, edgetl: Run) -> None:
        ran = edgetl(*words)
        assert (ran.code, ran.out) == (2, "")
        assert message in ran.err
        assert "Traceback" not in ran.err


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"),
        [(EdgetlError, 2), (SettingsError, 2), (ParityError, 3), (MissingError, 4)],
    )
    def test_an_error_is_a_line_and_the_exit_code_of_its_kind(
        self, error: type[EdgetlError], code: int, edgetl: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgetl.runtime.verify_bundle", raising(error("[here] it went wrong. Try again")))
        ran = edgetl("verify", "x")
        assert ran.code == code
        assert ran.err == f"edgetl: {error.__name__}: [here] it went wrong. Try again\n"

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
    def test_what_the_system_refuses_is_a_line_that_names_it(
        self, number: int, edgetl: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgetl.runtime.verify_bundle", raising(OSError(number, os.strerror(number), "/x")))
        ran = edgetl("verify", "x")
        assert ran.code == 4
        assert ran.err.startswith(f"edgetl: {os.strerror(number)}: /x. Mend that and type the same command")

    def test_a_fault_of_edgetls_own_is_not_hidden(self, edgetl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgetl.runtime.verify_bundle", raising(RuntimeError("a bug")))
        with pytest.raises(RuntimeError, match="a bug"):
            edgetl("verify", "x")

    @pytest.mark.parametrize(
        ("words", "stopped", "said"),
        [
            (("verify", "x"), "edgetl.runtime.verify_bundle", "stopped."),
            (
                ("build", "--data", "x", "--out", "y"),
                "edgetl.pipeline.read_builds",
                "stopped. What was finished is kept: type the same command to go on",
            ),
        ],
    )
    def test_ctrl_c_says_what_is_kept(
        self, words: tuple[str, ...], stopped: str, said: str, edgetl: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stopped, raising(KeyboardInterrupt()))
        ran = edgetl(*words)
        assert ran.code == 130
        assert ran.err.strip() == f"edgetl: {said}"


class TestShown:
    def test_progress_goes_to_stderr_with_a_rate(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert list(Shown().track("abc", "Reading letters", 3)) == ["a", "b", "c"]
        seen = capsys.readouterr()
        assert seen.out == ""
        assert seen.err.startswith("Reading letters: 3 in 0.0 s, ")
        assert seen.err.endswith("/s\n")

    def test_what_is_said_is_not_read_as_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        Shown().say("photos/[red]/1.jpg")
        assert capsys.readouterr().err == "photos/[red]/1.jpg\n"


def test_the_module_runs_as_a_program_and_loads_no_training_library_for_help() -> None:
    script = (
        "import sys\nsys.argv = ['edgetl', '--help']\nfrom edgetl.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    ran = subprocess.run([sys.executable, "-m", "edgetl", "biuld"], check=False, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "Did you mean 'build'?" in ran.stderr
