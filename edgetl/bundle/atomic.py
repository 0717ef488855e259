"""Folders that appear whole or not at all, whatever happens in between."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from edgetl.errors import MissingError

__all__ = ["atomic_folder", "write_file"]

_PARTIAL, _OLD = ".partial-", ".replaced"
# From linux/fs.h: swap two existing paths in one step.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`; it becomes `final` when the block ends, and vanishes if it fails.

    A folder already at `final` is replaced in one step; where `final` is a link, the folder it leads to. Folders that
    killed processes left behind are removed: each is locked as long as its process lives (on a file system without
    locks they stay), and an old folder that a kill took away from `final` is put back.

    Raises:
        MissingError: the disk is full; nothing at `final` has changed.
    """
    final = final.resolve()
    partial = final.with_name(f".{final.name}{_PARTIAL}{secrets.token_hex(4)}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(final)
        partial.mkdir()
        with _locked(partial, needed=False):
            yield partial
            _sync(partial)
            _put_in_place(partial, final)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise MissingError(
                f"{final}: no space left on this disk. What was finished is kept: free some and type the same command"
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a whole file, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _put_in_place(partial: Path, final: Path) -> None:
    if not final.exists():
        partial.rename(final)
    elif not _exchange(partial, final):
        # No exchange on this file system: for a moment there is nothing at `final`, never half of something.
        old = final.with_name(f".{final.name}{_OLD}")
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old)
    _sync_one(final.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def _sync(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@contextmanager
def _locked(folder: Path, needed: bool) -> Iterator[None]:
    """Hold a folder's lock, which the system lets go when the process ends, however it ends.

    Args:
        folder: what to lock.
        needed: whether a file system without locks is an error.

    Raises:
        OSError: another process holds the lock, or there is none to be had.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with nullcontext() if needed else suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(final: Path) -> None:
    old = final.with_name(f".{final.name}{_OLD}")
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    for stray in final.parent.glob(f".{glob.escape(final.name)}{_PARTIAL}*"):
        with suppress(OSError), _locked(stray, needed=True):
            shutil.rmtree(stray)
