"""Works with systemd: tells it that the server lives, and writes the unit that runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
import sys
from contextlib import suppress
from pathlib import Path

from edgetl.bundle import Bundle
from edgetl.errors import EdgetlError, SettingsError
from edgetl.serve.models import Models
from edgetl.serve.settings import LOOPBACK, ServeSettings
from edgetl.serve.tuning import kept_tuning

__all__ = ["notify", "prove", "watchdog_seconds", "write_unit"]

LOG = logging.getLogger("edgetl.serve")
WATCHDOG_SECONDS = 60
# What nothing that answers for photos needs; systemd.exec(5) says of each what it takes away.
HARDENED = (
    "NoNewPrivileges=yes", "CapabilityBoundingSet=", "AmbientCapabilities=", "ProtectSystem=strict",
    "ProtectHome=read-only", "PrivateTmp=yes", "PrivateUsers=yes", "ProtectClock=yes", "ProtectControlGroups=yes",
    "ProtectHostname=yes", "ProtectKernelLogs=yes", "ProtectKernelModules=yes", "ProtectKernelTunables=yes",
    "ProtectProc=invisible", "RestrictNamespaces=yes", "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes", "LockPersonality=yes", "RemoveIPC=yes", "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources", "SystemCallErrorNumber=EPERM",
    "UMask=0077",
)  # fmt: skip
# Flags that name a file which the service is handed.
SECRETS = ("token_file", "tls_certificate", "tls_key")
# The engines that write no code of their own at run time.
INTERPRETED = {"onnxruntime"}


def notify(state: str) -> None:
    """Tell systemd, where it started this process, as sd_notify(3) does."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told, suppress(OSError):
        told.connect(address)
        told.sendall(state.encode())


def watchdog_seconds() -> float | None:
    """Return how often systemd wants to hear that this process lives; None where it does not ask."""
    asked, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not asked.isdigit() or int(asked) == 0 or process not in {None, str(os.getpid())}:
        return None
    return int(asked) / 1e6


async def prove(models: Models, seconds: float) -> None:
    """Tell systemd that the server lives for as long as every model answers its golden photos as in the build, until
    cancelled; where one does not, systemd starts the server anew."""
    while True:
        try:
            for model in models:
                await asyncio.to_thread(model.replay)
        except EdgetlError as error:
            LOG.error("the watchdog is not told that the server lives: %s", error)
        except Exception:
            LOG.exception("the watchdog is not told that the server lives")
        else:
            notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 2)


def write_unit(settings: ServeSettings) -> str:
    """Return the unit that runs the server with these settings.

    Raises:
        BundleError: a bundle is not there, or damaged; its engine says what the service must be let.
        SettingsError: the socket is not in a folder of /run.
    """
    bundles = [Bundle.open(folder) for folder in settings.bundles.values()]
    words = [*_words(settings), *(_tuned_words(settings, bundles[0]) if len(bundles) == 1 else [])]
    command = shlex.join([sys.executable, "-m", "edgetl", "serve", *words]).replace("%", "%%").replace("$", "$$")
    limits = [*HARDENED]
    used = [bundle.manifest.artifact for bundle in bundles]
    on_cpu = all(each.execution.device == "cpu" for each in used)
    if on_cpu:
        limits += ["PrivateDevices=yes", "DevicePolicy=closed"]
    if on_cpu and {each.engine for each in used} <= INTERPRETED:
        limits.append("MemoryDenyWriteExecute=yes")
    for key in SECRETS:  # a user that the service does not run as may own them
        if (path := getattr(settings, key)) is not None:
            limits.append(f"LoadCredential={key}:{path.resolve()}")
            command += f" --{key.replace('_', '-')} %d/{key}"
    if settings.socket is not None:
        if settings.socket.parent.parent != Path("/run"):
            raise SettingsError(f"{settings.socket}: systemd makes sockets' folders in /run: say /run/NAME/NAME.sock")
        limits += ["RestrictAddressFamilies=AF_UNIX", "IPAddressDeny=any"]
        limits.append(f"RuntimeDirectory={settings.socket.parent.name}")
    else:
        limits.append("RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6")
        limits += ["IPAddressDeny=any", "IPAddressAllow=localhost"] if settings.host in LOOPBACK else []
    return "\n".join(
        [
            "[Unit]",
            f"Description=edgetl serves {', '.join(settings.bundles)}",
            "After=network.target",
            "StartLimitIntervalSec=300",
            "StartLimitBurst=5",
            "",
            "[Service]",
            "Type=notify",
            f"ExecStart={command}",
            f"WatchdogSec={WATCHDOG_SECONDS}",
            "Restart=on-failure",
            f"TimeoutStopSec={settings.drain_seconds + 10:g}",
            "DynamicUser=yes",
            "CacheDirectory=edgetl",
            "Environment=EDGETL_CACHE=/var/cache/edgetl PYTHONDONTWRITEBYTECODE=1",
            *limits,
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def _words(settings: ServeSettings) -> list[str]:
    """Return what was typed after `edgetl serve`, less the files that hold secrets, with paths that hold anywhere."""
    words = [f"{name}={folder.resolve()}" for name, folder in settings.bundles.items()]
    for key, field in ServeSettings.model_fields.items():
        value = getattr(settings, key)
        if key in {"bundles", *SECRETS} or value == field.default:
            continue
        words.append(f"--{key.replace('_', '-')}")
        if not isinstance(value, bool):
            words.append(str(value.resolve() if isinstance(value, Path) else value))
    return words


def _tuned_words(settings: ServeSettings, bundle: Bundle) -> list[str]:
    """Return what `--tune` found for a bundle and nobody typed: the service has a cache folder of its own."""
    found = kept_tuning(bundle)
    told = {} if found is None else found.model_dump()
    return [
        word
        for key, value in told.items()
        if getattr(settings, key) is None
        for word in (f"--{key.replace('_', '-')}", str(value))
    ]
