"""Tests of edgetl/serve/settings.py: what may be asked of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgetl.errors import SettingsError

settings = pytest.importorskip("edgetl.serve.settings", reason="fastapi answers over HTTP")


def test_a_bundle_is_called_by_its_folder_or_by_the_name_before_it(tmp_path: Path) -> None:
    asked = settings.read_settings([str(tmp_path / "sorter"), f"other={tmp_path / 'x'}"], {})
    assert asked.bundles == {"sorter": tmp_path / "sorter", "other": tmp_path / "x"}


def test_only_this_machine_is_answered_unless_more_is_said() -> None:
    assert settings.read_settings(["a"], {}).host == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "device.local"])
def test_beyond_this_machine_a_token_or_a_word_is_needed(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no token guards it\. Name a file .* --token-file, or say --insecure"):
        settings.read_settings(["a"], {"host": host})
    assert settings.read_settings(["a"], {"host": host, "insecure": True}).host == host
    assert settings.read_settings(["a"], {"host": host, "token_file": tmp_path}).host == host


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"port": 65536}, "port: Input should be less than or equal to 65535"),
        ({"queue": 0}, "queue: Input should be greater than or equal to 1"),
        ({"deadline_ms": 0}, "deadline_ms: Input should be greater than 0"),
        ({"tls_key": Path("key.pem")}, "tls_certificate and tls_key go together"),
        ({"worker": 2}, "unknown key 'worker'. Did you mean workers"),
    ],
)
def test_what_cannot_be_is_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        settings.read_settings(["a"], flags)


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "ä", "x" * 65])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot name a model: letters, digits"):
        settings.read_settings([f"{name}=folder"], {})


def test_a_name_is_given_once() -> None:
    with pytest.raises(SettingsError, match=r"b/x: x is a/x already\. Name one of them otherwise: NAME=FOLDER"):
        settings.read_settings(["a/x", "b/x"], {})
