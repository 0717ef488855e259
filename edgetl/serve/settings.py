"""What a user asks of the server: the flags of `edgetl serve`, with the same names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from edgetl.errors import SettingsError
from edgetl.profiles import explain
from edgetl.records import Record

__all__ = ["LOOPBACK", "ServeSettings", "read_settings"]

# What a model may be called: names stand in paths and metrics, and none can step out of either.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class ServeSettings(Record):
    """Everything the server depends on, beside the bundles themselves."""

    bundles: dict[str, Path] = Field(min_length=1, description="name -> folder; the first answers `/predict`")
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535, description="0 lets the system choose one")
    socket: Path | None = Field(default=None, description="Unix socket, in place of host and port")
    token_file: Path | None = Field(default=None, description="holds the token that clients must send")
    insecure: bool = Field(default=False, description="listen beyond this machine without a token")
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    # None, of these four: what `edgetl serve --tune` found for the bundle, else what tuning.py says.
    workers: int | None = Field(default=None, ge=0, le=256, description="photos answered at once; 0 means one a core")
    threads: int | None = Field(
        default=None, ge=0, le=256, description="of the engine for each; 0: the engine's choice"
    )
    batch: int | None = Field(default=None, ge=1, le=256, description="photos of different requests run together")
    delay_ms: float | None = Field(default=None, ge=0, le=1000, description="to wait for a batch to fill")
    queue: int = Field(default=64, ge=1, le=100_000, description="requests that may wait; more are refused")
    deadline_ms: float = Field(default=2000.0, gt=0, le=600_000, description="to wait in the queue at most")
    connections: int = Field(default=512, ge=1, le=100_000)
    receive_seconds: float = Field(default=10.0, gt=0, le=600, description="for a whole request to arrive")
    max_bytes: int = Field(default=16 << 20, ge=1024, le=1 << 30, description="of a request's body")
    max_pixels: int = Field(default=25_000_000, ge=1024, description="of a photo")
    drain_seconds: float = Field(default=30.0, ge=0, le=600, description="to answer what was accepted, when stopping")
    fallback: bool = Field(default=False, description="answer through what can, where a bundle's engine is not here")
    watch: bool = Field(default=False, description="load a bundle again when its folder is replaced")
    access_log: bool = Field(default=False, description="log every request that was read, not only failed ones")

    @field_validator("bundles")
    @classmethod
    def _check_names(cls, bundles: dict[str, Path]) -> dict[str, Path]:
        for name in bundles:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name a model: letters, digits, '.', '_' and '-', at most 64, a letter or digit "
                    "first. Name it so: NAME=FOLDER"
                )
        return bundles

    @model_validator(mode="after")
    def _check(self) -> ServeSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: name both files")
        beyond = self.socket is None and self.host not in LOOPBACK
        if beyond and self.token_file is None and not self.insecure:
            raise ValueError(
                f"host {self.host} can be reached from other machines, and no token guards it. Name a file that holds "
                "one with --token-file, or say --insecure if everybody may ask"
            )
        return self


def read_settings(bundles: Sequence[str], flags: dict[str, Any]) -> ServeSettings:
    """Return the settings from what was typed: a folder for each model, or NAME=FOLDER, and flags.

    Raises:
        SettingsError: a name that is taken or cannot be one, or a value out of range.
    """
    named: dict[str, Path] = {}
    for typed in bundles:
        given, equals, folder = typed.partition("=")
        path = Path(folder if equals else typed)
        name = given if equals else path.resolve().name
        if name in named:
            raise SettingsError(f"{typed}: {name} is {named[name]} already. Name one of them otherwise: NAME=FOLDER")
        named[name] = path
    try:
        return ServeSettings.model_validate({"bundles": named, **flags})
    except ValidationError as invalid:
        raise SettingsError(explain(invalid, ServeSettings)) from invalid
