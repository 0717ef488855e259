"""Tests of edgetl/bundle/atomic.py."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgetl.bundle import atomic
from edgetl.bundle.atomic import atomic_folder, write_file
from edgetl.errors import MissingError


def contents(folder: Path) -> dict[str, str]:
    """Return the text of every file below a folder, by its path in it."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(final: Path, text: str) -> None:
    with atomic_folder(final) as folder:
        write_file(folder / "deep" / "new.txt", text)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Return the folder that a process was writing when it was killed, meant to become `out[1]`."""
    script = (
        "import os, signal, sys; from pathlib import Path; from edgetl.bundle import atomic_folder, write_file\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    write_file(folder / 'half.txt', 'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out[1]")], check=False)
    assert child.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert contents(left) == {"half.txt": "half"}
    return left


class TestTheFolder:
    def test_it_appears_only_when_the_block_has_ended(self, tmp_path: Path) -> None:
        final = tmp_path / "out"
        with atomic_folder(final) as folder:
            write_file(folder / "new.txt", "whole")
            assert not final.exists()
        assert contents(final) == {"new.txt": "whole"}

    def test_it_is_made_with_the_folders_above_it(self, tmp_path: Path) -> None:
        write(tmp_path / "a" / "b" / "out", "whole")
        assert contents(tmp_path / "a" / "b" / "out") == {"deep/new.txt": "whole"}

    def test_nothing_else_is_left_beside_it(self, tmp_path: Path) -> None:
        write(tmp_path / "out", "first")
        write(tmp_path / "out", "second")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_failing_block_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="halfway"), atomic_folder(tmp_path / "out") as folder:
            write_file(folder / "new.txt", "half")
            raise RuntimeError("halfway")
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupted_block_leaves_the_old_one(self, tmp_path: Path) -> None:
        final = tmp_path / "out"
        write_file(final / "old.txt", "old")
        with pytest.raises(KeyboardInterrupt), atomic_folder(final) as folder:
            write_file(folder / "new.txt", "half")
            raise KeyboardInterrupt
        assert contents(final) == {"old.txt": "old"}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize("exchange", [True, False], ids=["exchanged in one step", "renamed in two"])
    def test_the_old_one_is_replaced_as_a_whole(
        self, exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not exchange:
            monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
        final = tmp_path / "out"
        write_file(final / "old.txt", "old")
        write(final, "new")
        assert contents(final) == {"deep/new.txt": "new"}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_an_empty_folder_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        write(tmp_path / "out", "new")
        assert contents(tmp_path / "out") == {"deep/new.txt": "new"}

    def test_a_link_stays_a_link_and_the_folder_it_leads_to_is_replaced(self, tmp_path: Path) -> None:
        write_file(tmp_path / "versions" / "1" / "old.txt", "old")
        (tmp_path / "current").symlink_to(tmp_path / "versions" / "1")
        for text in ("new", "newer"):
            write(tmp_path / "current", text)
            assert contents(tmp_path / "versions" / "1") == {"deep/new.txt": text}
        assert (tmp_path / "current").is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "versions"]

    def test_the_working_folder_itself_can_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")
        write(Path(), "new")
        assert contents(tmp_path / "out") == {"deep/new.txt": "new"}


class TestExchange:
    def test_two_folders_are_swapped(self, tmp_path: Path) -> None:
        write_file(tmp_path / "a" / "a.txt", "a")
        write_file(tmp_path / "b" / "b.txt", "b")
        if not atomic._exchange(tmp_path / "a", tmp_path / "b"):
            pytest.skip("this file system or system cannot exchange two folders")
        assert (contents(tmp_path / "a"), contents(tmp_path / "b")) == ({"b.txt": "b"}, {"a.txt": "a"})

    def test_without_renameat2_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda name: object())
        assert not atomic._exchange(tmp_path, tmp_path)

    def test_what_is_not_there_is_not_exchanged(self, tmp_path: Path) -> None:
        assert not atomic._exchange(tmp_path / "gone", tmp_path)


class TestLeftovers:
    def test_that_of_a_killed_process_is_removed(self, killed: Path, tmp_path: Path) -> None:
        write(tmp_path / "out[1]", "new")
        assert not killed.exists()
        assert contents(tmp_path) == {"out[1]/deep/new.txt": "new"}

    def test_that_of_a_living_process_is_left_alone(self, tmp_path: Path) -> None:
        with atomic_folder(tmp_path / "out") as folder:
            write_file(folder / "half.txt", "half")
            write(tmp_path / "out", "of another")
            assert contents(folder) == {"half.txt": "half"}
        assert contents(tmp_path) == {"out/half.txt": "half"}

    def test_without_locks_folders_are_written_and_none_is_taken_for_a_leftover(
        self, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(atomic.fcntl, "flock", refuse)
        write(tmp_path / "out[1]", "new")
        assert contents(tmp_path / "out[1]") == {"deep/new.txt": "new"}
        assert contents(killed) == {"half.txt": "half"}

    def test_an_old_folder_that_a_kill_took_away_is_put_back(self, tmp_path: Path) -> None:
        write_file(tmp_path / ".out.replaced" / "old.txt", "old")
        with pytest.raises(RuntimeError, match="halfway"), atomic_folder(tmp_path / "out"):
            raise RuntimeError("halfway")
        assert contents(tmp_path) == {"out/old.txt": "old"}

    def test_an_old_folder_that_was_replaced_is_removed(self, tmp_path: Path) -> None:
        write_file(tmp_path / ".out.replaced" / "old.txt", "old")
        write_file(tmp_path / "out" / "new.txt", "new")
        write(tmp_path / "out", "newer")
        assert contents(tmp_path) == {"out/deep/new.txt": "newer"}

    @pytest.mark.parametrize("name", [".other.partial-1", "out.partial-1", ".out.part"])
    def test_what_only_looks_like_one_is_left_alone(self, name: str, tmp_path: Path) -> None:
        write_file(tmp_path / name / "mine.txt", "mine")
        write(tmp_path / "out", "new")
        assert contents(tmp_path / name) == {"mine.txt": "mine"}


class TestAFullDisk:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_it_is_named_and_the_old_one_stays(self, code: int, tmp_path: Path) -> None:
        final = tmp_path / "out"
        write_file(final / "old.txt", "old")
        message = r"out: no space left on this disk\. What was finished is kept: free some and type the same command"
        with pytest.raises(MissingError, match=message), atomic_folder(final) as folder:
            write_file(folder / "new.txt", "half")
            raise OSError(code, os.strerror(code))
        assert contents(final) == {"old.txt": "old"}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_it_is_named_where_not_even_the_first_folder_fits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(self: Path, *arguments: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "mkdir", full)
        with pytest.raises(MissingError, match="no space left on this disk"), atomic_folder(tmp_path / "out"):
            pass

    def test_another_fault_of_the_system_is_passed_on(self, tmp_path: Path) -> None:
        with pytest.raises(PermissionError, match="read-only"), atomic_folder(tmp_path / "out"):
            raise PermissionError(errno.EACCES, "read-only")
        assert list(tmp_path.iterdir()) == []


class TestWriteFile:
    def test_text_and_bytes_are_written_with_the_folders_above(self, tmp_path: Path) -> None:
        write_file(tmp_path / "a" / "text.txt", "größer")
        write_file(tmp_path / "a" / "bytes.bin", b"\x00\xff")
        assert (tmp_path / "a" / "text.txt").read_bytes() == "größer".encode()
        assert (tmp_path / "a" / "bytes.bin").read_bytes() == b"\x00\xff"
