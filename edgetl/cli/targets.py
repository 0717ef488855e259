"""`edgetl targets`: which devices can be built for?"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from edgetl.cli.console import out, print_json

__all__ = ["targets"]


def targets(json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the devices that can be built for."""
    from edgetl.target import load_target, target_names

    profiles = [load_target(name) for name in target_names()]
    if json:
        print_json({"targets": [profile.model_dump(mode="json", by_alias=True) for profile in profiles]})
        return
    for profile in profiles:
        precisions = " or ".join(profile.engine.precisions)
        out.print(f"{profile.name:16} {profile.engine.name:12} {precisions:14} {profile.description}")
