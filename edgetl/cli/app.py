"""`edgetl`: the verbs, and how errors end."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from edgetl.cli import bench, build, compile, predict, serve, targets, verify
from edgetl.cli.console import complain, out, remember_interrupt
from edgetl.errors import EdgetlError, nearest

__all__ = ["app", "main"]

INTERRUPTED = 130
# Typer carries its own copy of click, or depends on it, by version; its errors are found through what it exports.
UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="edgetl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def edgetl(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """From a folder of photos to a verified, measured bundle that runs on an edge device."""
    if version:
        from edgetl import __version__

        out.print(f"edgetl {__version__}")
        raise typer.Exit


for verb in (build.build, predict.predict, verify.verify, bench.bench, serve.serve):
    app.command()(verb)
app.command("compile")(compile.compile_)
app.add_typer(targets.app, name="targets")


def main() -> None:
    """Run one verb and leave with its exit code: 0 done, 2 wrong use or input, 3 missed, 4 missing here."""
    remember_interrupt()
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # what newer versions of Typer make of Ctrl-C; others raise Abort
            raise KeyboardInterrupt
    except typer.Exit as finished:
        code = finished.exit_code
    except UsageError as wrong:
        complain(_explain(wrong))
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        built = " What was finished is kept: type the same command to go on" if "build" in sys.argv[1:2] else ""
        complain(f"stopped.{built}")
        code = INTERRUPTED
    except EdgetlError as error:
        complain(f"{type(error).__name__}: {error}")
        code = error.exit_code
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        complain(f"{error.strerror or error}{where}. Mend that and type the same command: what was finished is kept")
        code = 4
    sys.exit(code or 0)


def _explain(wrong: Any) -> str:
    """Return what is wrong with the words typed, with the nearest option where one is unknown."""
    unknown, context = getattr(wrong, "option_name", None), wrong.ctx
    if unknown is None or context is None:
        return str(wrong.format_message())
    known = [name for parameter in context.command.params for name in parameter.opts]
    return f"unknown option {unknown}. {nearest(unknown, known)}"
