"""`edgetl verify`: is this bundle whole, and does this machine answer as the build did?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from edgetl.cli.console import out, print_json

__all__ = ["verify"]


def verify(
    bundle: Annotated[Path, Argument(help="Folder of the bundle.")],
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check every file's hash and replay the golden photos on the engine of this machine."""
    from edgetl.runtime import verify_bundle

    verified = verify_bundle(bundle)
    if json:
        print_json(verified)
        return
    out.print(f"{bundle}: {verified.files} files are as the manifest says")
    for reason in dict.fromkeys(one.reason for one in verified.skipped):
        paths = ", ".join(f"{one.path} for {one.engine}" for one in verified.skipped if one.reason == reason)
        out.print(f"not replayed here: {paths}. {reason}")
    for each in verified.replayed:
        out.print(
            f"{each.golden.images} golden photos answered alike by {each.engine} on {each.device}, {each.precision}: "
            f"logits differ by at most {each.golden.max_logit_difference:.3g} "
            f"({each.logit_tolerance:.3g} allowed), pixels by {each.golden.max_pixel_difference}"
        )
    if verified.replayed and verified.engine not in {one.engine for one in verified.replayed}:
        out.print(f"nothing was replayed on {verified.engine}, which the bundle is for: verify it on the device too")
    if not verified.replayed:
        out.print("the bundle holds no golden photos, so its answers were not replayed")
