"""`edgetl predict`: what is on these photos?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from edgetl.cli.console import out, print_json

__all__ = ["predict"]


def predict(
    bundle: Annotated[Path, Argument(help="Folder of the bundle.")],
    photos: Annotated[list[Path], Argument(help="Photo files.")],
    top: Annotated[int, Option(help="How many labels a photo.")] = 3,
    fallback: Annotated[
        bool, Option("--fallback", help="Where its engine or device is not here, answer through what can, and say so.")
    ] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer for photos with a bundle."""
    from edgetl.errors import DataError
    from edgetl.runtime import Predictor

    # A plan takes minutes to build, and this is over sooner.
    with Predictor.open(bundle, fallback=fallback, build_plan=False) as predictor:
        answers, failed = [], []
        for photo in photos:
            try:
                answers.append((photo, predictor.predict(photo, top)))
            except DataError as error:  # noqa: PERF203  # one bad photo must not cost the others their answers
                failed.append((photo, error))
        answered_by, degraded = predictor.session.artifact.engine, predictor.session.degraded
    if json:
        print_json(
            {
                "bundle": str(bundle),
                "engine": answered_by,
                "degraded": degraded,
                "predictions": [
                    {
                        "photo": str(photo),
                        "label": answer.label,
                        "scores": [{"label": each.label, "score": each.score} for each in answer.scores],
                        "time_ms": {
                            "decode": answer.time.decode_ms,
                            "preprocess": answer.time.preprocess_ms,
                            "inference": answer.time.inference_ms,
                            "postprocess": answer.time.postprocess_ms,
                        },
                    }
                    for photo, answer in answers
                ],
                "failed": [{"photo": str(photo), "error": str(error)} for photo, error in failed],
            }
        )
    else:
        for photo, answer in answers:
            scores = ", ".join(f"{each.label} {100 * each.score:.1f} %" for each in answer.scores)
            out.print(f"{photo}: {scores}  ({answer.time.total_ms:.1f} ms)")
    if failed:
        raise DataError("; ".join(str(error) for _, error in failed))
