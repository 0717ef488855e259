"""`edgetl serve`: answer for photos over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from typer import Argument, Option

from edgetl.cli.console import Shown, out

if TYPE_CHECKING:
    from edgetl.serve import Tuned

__all__ = ["serve"]


def serve(
    bundles: Annotated[list[str], Argument(help="Folder of a bundle, or NAME=FOLDER; the first answers /predict.")],
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Port; 0 lets the system choose.")] = 8080,
    socket: Annotated[Path | None, Option(help="Unix socket to listen on instead.")] = None,
    token_file: Annotated[Path | None, Option(help="File with the token that clients must send.")] = None,
    insecure: Annotated[bool, Option("--insecure", help="Listen beyond this machine without a token.")] = False,
    tls_certificate: Annotated[Path | None, Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, Option(help="Its key, PEM.")] = None,
    workers: Annotated[
        int | None, Option(help="Photos answered at once; 0: one a core. Unsaid: what --tune found, else one a core.")
    ] = None,
    threads: Annotated[
        int | None, Option(help="Engine threads for each; 0: the engine's choice. Unsaid: what --tune found, else 1.")
    ] = None,
    batch: Annotated[
        int | None, Option(help="Photos of different requests run together. Unsaid: what --tune found, else 1.")
    ] = None,
    delay_ms: Annotated[
        float | None, Option(help="Milliseconds to wait for a batch to fill. Unsaid: what --tune found, else 2.")
    ] = None,
    queue: Annotated[int, Option(help="Requests that may wait; more are refused.")] = 64,
    deadline_ms: Annotated[float, Option(help="Milliseconds that a request may wait.")] = 2000.0,
    connections: Annotated[int, Option(help="Connections that may be open.")] = 512,
    max_bytes: Annotated[int, Option(help="Bytes that a request's body may have.")] = 16 << 20,
    max_pixels: Annotated[int, Option(help="Pixels that a photo may have.")] = 25_000_000,
    receive_seconds: Annotated[float, Option(help="Seconds in which a whole request must arrive.")] = 10.0,
    drain_seconds: Annotated[float, Option(help="Seconds to answer what was accepted, when stopping.")] = 30.0,
    fallback: Annotated[
        bool, Option("--fallback", help="Where a bundle's engine or device is not here, answer through what can.")
    ] = False,
    watch: Annotated[bool, Option("--watch", help="Load a bundle again when its folder is replaced.")] = False,
    access_log: Annotated[
        bool, Option("--access-log", help="Log every request that was read, not only those that failed.")
    ] = False,
    tune: Annotated[
        bool,
        Option("--tune", help="Measure how this machine answers most photos, keep that for later starts, and end."),
    ] = False,
    systemd: Annotated[
        bool, Option("--systemd", help="Print the systemd unit that runs this, hardened, and serve nothing.")
    ] = False,
) -> None:
    """Answer for photos over HTTP: POST /predict, and the Open Inference Protocol."""
    flags: dict[str, Any] = {**locals()}
    del flags["bundles"], flags["tune"], flags["systemd"]
    try:
        from edgetl.serve import find_tuning, read_settings, write_unit
        from edgetl.serve import serve as run
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("edgetl"):
            raise
        from edgetl.errors import missing_library

        raise missing_library(error.name or "a library", "serve", "serve a bundle") from None
    settings = read_settings(bundles, flags)
    if systemd:
        out.print(write_unit(settings), end="")
        return
    if tune:
        for found in find_tuning(settings, Shown()):
            _print(found)
        return
    run(settings, lambda address: out.print(f"answering at {address}"))


def _print(found: Tuned) -> None:
    """Show what was tried, the best first."""
    table = Table(
        title=f"{found.name}, {found.in_flight} requests waiting all the time", title_justify="left", box=None
    )
    for heading in ("workers", "threads", "batch", "photos/s", "p50 ms"):
        table.add_column(heading, justify="right")
    for trial in found.trials:
        how = trial.tuning
        rate, p50 = f"{trial.photos_a_second:.1f}", f"{trial.p50_ms:.2f}"
        table.add_row(str(how.workers), str(how.threads), str(how.batch), rate, p50)
    out.print(table)
    out.print(f"The first is used from now on (kept in {found.path}); a flag that is typed says otherwise.")
