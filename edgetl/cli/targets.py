"""`edgetl targets`: which devices can be built for, and which of them is this machine?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option, Typer

from edgetl.cli.console import complain, out, print_json

if TYPE_CHECKING:
    from edgetl.target import TargetProfile

__all__ = ["app"]

app = Typer(help="List the devices that can be built for; show one; say which fits this machine.", add_completion=False)
Json = Annotated[bool, Option("--json", help="Print one JSON object.")]


@app.callback(invoke_without_command=True)
def targets(context: Context, json: Json = False) -> None:
    """List the devices that can be built for; show one; say which fits this machine."""
    if context.invoked_subcommand:
        return
    profiles = _every()
    if json:
        print_json({"targets": [profile.model_dump(mode="json", by_alias=True) for profile in profiles]})
        return
    for profile in profiles:
        name = " = ".join([profile.name, *profile.aliases])
        precisions = " or ".join(profile.engine.precisions)
        out.print(f"{name:26} {profile.engine.name:12} {precisions:26} {profile.description}")


@app.command()
def show(
    name: Annotated[str, Argument(help="Name of a target, or its TOML file.")],
    json: Json = False,
) -> None:
    """Print all that is known of one target."""
    from edgetl.target import load_target

    profile = load_target(name)
    if json:
        print_json(profile)
        return
    engine, device, budget = profile.engine, profile.device, profile.budget
    latency = f", {budget.latency_ms_p50:g} ms a photo (p50)" if budget.latency_ms_p50 else ""
    size = f", {budget.size_bytes / 1e6:g} MB" if budget.size_bytes else ""
    memory = f", {device.memory_mb} MB of memory" if device.memory_mb else ""
    rows = {
        "target": " = ".join([profile.name, *profile.aliases]),
        "device": f"{profile.description} ({device.architecture}{memory})",
        "engine": f"{engine.name} on {engine.device}, for {engine.hint}",
        "threads": engine.threads or "its own choice",
        "precisions": " or ".join(engine.precisions) + ", in this order",
        "batches": ", ".join(map(str, engine.batch_sizes)),
        "budget": f"{budget.accuracy_drop_points:g} points of accuracy{latency}{size}",
        "must have": ", ".join(device.requires) or "nothing said",
        "source": profile.source,
    }
    for key, value in rows.items():
        out.print(f"{key:12} {value}")


@app.command()
def detect(json: Json = False) -> None:
    """Say what this machine is, which targets fit it, and what is missing for the others."""
    from edgetl import bench

    found = bench.detect()
    fits = [bench.fit(profile, found) for profile in _every()]
    if json:
        print_json(
            {"machine": found.model_dump(mode="json"), "targets": [each.model_dump(mode="json") for each in fits]}
        )
        return
    board = found.board or "no device tree: a PC or server"
    out.print(f"cpu      {found.cpu}, {found.architecture}, {found.cores} cores, {found.memory_mb} MB")
    out.print(f"flags    {', '.join(found.flags) or 'none that matter'}")
    out.print(f"board    {board}" + (f", Jetson Linux {found.jetson_linux}" if found.jetson_linux else ""))
    out.print(f"gpu      {found.gpu or 'none that CUDA can use'}")
    for name, devices in found.engines.items():
        out.print(f"engine   {name}: {', '.join(devices) or 'not here'}")
    for each in sorted(fits, key=lambda one: (not one.fits, bool(one.wrong))):
        mark = "fits" if each.fits else "no  " if each.wrong else "lacks"
        reasons = "; ".join(each.wrong or [f"missing: {one}" for one in each.missing])
        out.print(f"{mark:6} {each.target:18} {reasons}")


def _every() -> list[TargetProfile]:
    """Return every target that can be read."""
    from edgetl.target import target_names

    return [profile for profile in map(_readable, target_names()) if profile]


def _readable(name: str) -> TargetProfile | None:
    """Return a target; None, after saying why, where it is one of the user's own that cannot be read."""
    from edgetl.errors import TargetError
    from edgetl.target import load_target

    try:
        return load_target(name)
    except TargetError as error:
        complain(f"left out: {error}")
        return None
