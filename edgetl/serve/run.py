"""Runs the server until it is told to stop: sockets, signals, systemd."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from edgetl.errors import MissingError, SettingsError
from edgetl.serve.app import create_app
from edgetl.serve.logs import log_as_json
from edgetl.serve.protocol import Limits, limited
from edgetl.serve.replies import Reason
from edgetl.serve.service import Service
from edgetl.serve.settings import ServeSettings
from edgetl.serve.systemd import notify, prove, watchdog_seconds

__all__ = ["serve"]

BACKLOG = 1024
GOODBYE_SECONDS = 2.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def serve(settings: ServeSettings, started: Callable[[str], None] = lambda address: None) -> None:
    """Answer requests until SIGTERM or SIGINT; what was accepted is answered first.

    Args:
        settings: what to serve, and how.
        started: hears the address once requests are answered there.

    Raises:
        BundleError: a bundle is not there, or damaged.
        MissingError: an engine or device is not here, or the address cannot be had.
        ParityError: a bundle answers its golden photos otherwise than in the build.
        SettingsError: the token's file cannot be used.
    """
    log_as_json()
    give_back_at_once()
    token = None if settings.token_file is None else _read_token(settings.token_file)
    with uvicorn_loop() as run:
        run(_serve(settings, token, started))


def give_back_at_once() -> None:
    """Let glibc, where it is used, give the memory of a large photo back to the system as soon as it is freed.

    It keeps what it thinks is soon needed again: 350 MB more after a few photos of 25 megapixels on two threads. From
    mallopt(3); a threshold that is set is not raised again by what is freed.
    """
    with suppress(AttributeError, OSError):
        tune = ctypes.CDLL(None).mallopt
        tune(M_MMAP_THRESHOLD, 4 << 20)
        tune(M_TRIM_THRESHOLD, 16 << 20)


@contextmanager
def uvicorn_loop() -> Iterator[Callable[..., None]]:
    """Give a function that runs a coroutine to its end on the fastest event loop here."""
    try:
        import uvloop
    except ImportError:  # no wheel for this machine
        yield asyncio.run
    else:
        yield uvloop.run


async def _serve(settings: ServeSettings, token: bytes | None, started: Callable[[str], None]) -> None:
    service = Service(settings)
    with _listen(settings) as listening:
        try:
            for name in settings.bundles:
                await service.models.load(name)
            server = Server(service, settings, token, lambda: started(_address(settings, listening)))
            seconds = watchdog_seconds()
            beside = [service.watch()] if settings.watch else []
            beside += [] if seconds is None else [prove(service.models, seconds)]
            async with _beside(*beside):
                await server.serve(sockets=[listening])
        finally:
            await service.models.close()


@asynccontextmanager
async def _beside(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let coroutines run until the block ends."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Server(uvicorn.Server):
    """uvicorn's server, which says that it is not ready before it stops, and then ends like any other program."""

    def __init__(
        self, service: Service, settings: ServeSettings, token: bytes | None, started: Callable[[], None]
    ) -> None:
        self._service = service
        self._started = started
        self._handshake_seconds = settings.receive_seconds

        def refused(status: int, reason: Reason) -> None:
            service.metrics.refuse(reason)
            service.metrics.count(status)

        limits = Limits(
            connections=settings.connections,
            receive_seconds=settings.receive_seconds,
            is_full=service.is_full,
            refused=refused,
        )
        config = uvicorn.Config(
            create_app(service, token),
            http=limited(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(settings.drain_seconds),
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=None if settings.tls_key is None else str(settings.tls_key),
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        if self.config.is_ssl:
            # uvicorn leaves a handshake a minute, and half of one to say goodbye.
            loop: Any = asyncio.get_running_loop()
            loop.create_server = partial(
                loop.create_server,
                ssl_handshake_timeout=self._handshake_seconds,
                ssl_shutdown_timeout=GOODBYE_SECONDS,
            )
        await super().startup(sockets)
        self._started()
        notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted."""
        notify("STOPPING=1")
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at a second signal without waiting for who is still being answered."""
        self.force_exit = self._service.draining
        self._service.draining = True
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals stop the server; uvicorn's own way ends the process by the signal, as if it had failed."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for each in signals:
            loop.add_signal_handler(each, self.handle_exit, each, None)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)


@contextmanager
def _listen(settings: ServeSettings) -> Iterator[socket.socket]:
    """Give the socket that requests come to; a Unix socket's file goes with it."""
    if settings.socket is not None:
        yield from _listen_unix(settings.socket)
        return
    try:
        listening = socket.create_server((settings.host, settings.port), backlog=BACKLOG, family=_family(settings.host))
    except OSError as error:
        raise _not_there(f"{settings.host}:{settings.port}", error, "--host or --port") from None
    with listening:
        yield listening


def _listen_unix(path: Path) -> Iterator[socket.socket]:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _check_abandoned(path)
            path.unlink()
        listening.bind(str(path))
        path.chmod(0o666)  # whoever may reach the folder may ask, as on a port
    except OSError as error:
        listening.close()
        raise _not_there(str(path), error, "--socket") from None
    try:
        with listening:
            listening.listen(BACKLOG)
            yield listening
    finally:
        path.unlink(missing_ok=True)


def _not_there(where: str, error: OSError, flag: str) -> MissingError:
    # Names that cannot be looked up have numbers below zero, and asyncio adds words of its own to the others'.
    reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
    return MissingError(f"{where}: cannot listen there: {reason}. Choose another {flag}")


def _check_abandoned(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise MissingError(f"{path}: another server listens there. Choose another --socket")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _address(settings: ServeSettings, listening: socket.socket) -> str:
    if settings.socket is not None:
        return f"unix:{settings.socket}"
    host, port = listening.getsockname()[:2]
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _read_token(path: Path) -> bytes:
    """Return the token in a file.

    Raises:
        SettingsError: it cannot be read, or holds none that is long enough to guard anything.
    """
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"{path}: cannot read the token: {error.strerror or error}") from None
    if len(token) < 16 or not token.isascii() or len(token.split()) != 1:
        raise SettingsError(f"{path}: must hold one token of at least 16 characters. Make one: openssl rand -hex 32")
    return token
