"""`edgetl verify`: is this bundle whole, and does this machine answer as the build did?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from edgetl.cli.console import out, print_json

if TYPE_CHECKING:
    from edgetl.runtime import Verified

__all__ = ["verify"]


def verify(
    bundle: Annotated[Path, Argument(help="Folder of the bundle.")],
    ladder: Annotated[
        bool, Option("--ladder", help="Print too how each step from the trained network to the device was proved.")
    ] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check every file's hash and replay the golden photos on the engine of this machine."""
    from edgetl.runtime import verify_bundle

    verified = verify_bundle(bundle)
    if json:
        print_json(verified)
        return
    out.print(f"{bundle}: {verified.files} files are as the manifest says")
    if ladder:
        _print_ladder(verified)
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


def _print_ladder(verified: Verified) -> None:
    """Print the rungs that were proved in the build; what this machine replays comes after them."""
    out.print(
        f"{'rung':10} {'what answered':34} {'held against':34} {'error':>8} {'mean':>8} {'cosine':>8}  top-1 alike"
    )
    for rung in verified.ladder:
        parity = rung.parity
        ties = f"; {parity.near_ties} changed among near-ties" if parity.near_ties else ""
        out.print(
            f"{rung.name:10} {rung.answered_by:34} {rung.against:34} {parity.max_relative_error:8.2g} "
            f"{parity.mean_relative_error:8.2g} {parity.cosine:8.5f}  {100 * parity.top1_agreement:.1f} % of "
            f"{parity.images} photos{ties}"
        )
