"""Proves each rung from the trained network to the bundle, on real photos."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Literal

import numpy as np

from edgetl.bench import answer_all
from edgetl.bundle import Artifact, Bundle, Rung
from edgetl.data import labels_of
from edgetl.errors import ParityError
from edgetl.export import (
    MAX_RELATIVE_ERROR,
    CoreSession,
    check_engine,
    check_rung,
    find_parted_layer,
    measure_parity,
)
from edgetl.metrics import compare_paired
from edgetl.pipeline.artifacts import open_here, run_core, tolerance
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.results import CompiledStage, Exported
from edgetl.records import FloatArray, ImageArray, Precision, Progress
from edgetl.runtime import PLANNED, Predictor, Session, open_session

__all__ = ["LOOKED_AT", "answer_as_defined", "prove_bundle", "prove_float", "prove_quantized"]

# Photos that the first layer to part is found by.
LOOKED_AT = 2
# Share of a layer's largest value by which engines that round integers in ways of their own may part.
ROUNDED = 0.25
# Photos that a finished bundle answers before it takes its place.
BUNDLE_PHOTOS = 16
# The engine that answers one photo by a model of fixed shape, and several by another.
TWO_MODELS = "openvino"


def prove_float(plan: Plan, name: Literal["faced", "artifact"], session: Session, logits: FloatArray) -> Rung:
    """Return the rung of a float artifact, given its logits for `photos.proving`.

    Raises:
        ParityError: it computes something else than the trained network; names the first layer that parts.
    """
    artifact = session.artifact
    limit = tolerance(artifact)
    rung = Rung(
        name=name,
        answered_by=f"fp32 on {artifact.engine}, {artifact.execution.device}",
        against=plan.original,
        parity=measure_parity(plan.expected, logits, limit),
    )
    return check_rung(rung, limit, partial(_parted_layer, plan, artifact, limit))


def prove_quantized(
    plan: Plan, artifact: Artifact, session: Session, logits: FloatArray, progress: Progress
) -> tuple[Rung, ...]:
    """Return the rungs of an artifact below float32: its graph as ONNX defines it against float, then the engine
    against that, where the engine is here; before them, where the network was trained quantization-aware, how its
    export was proved.

    Args:
        plan: whose quantizing stage is done.
        artifact: as the target runs it.
        session: what answered for it here; it may be closed.
        logits: its answers for `photos.proving`.
        progress: counts them.

    Raises:
        ParityError: the engine does not compute the graph; names the first layer that parts.
    """
    precision, limit = artifact.precision, tolerance(artifact)
    written, exact, rows = _written(precision), logits, plan.photos.rows_of(plan.photos.proving)
    answered_by, otherwise = session.artifact, ", in float32" if session.degraded else ""
    runs_here = answered_by.engine == artifact.engine
    if runs_here:
        exact = answer_as_defined(plan, precision, rows, progress)
    quantized = Rung(
        name="quantized",
        answered_by=f"{written} as ONNX defines it" if runs_here else f"{written}, computed in float32",
        against="fp32",
        parity=measure_parity(plan.floats[rows], exact, limit),
    )
    before = (plan.qat_exported.read("exported", Exported).rung,) if plan.aware else ()
    if not runs_here:
        return (*before, quantized)
    rung = Rung(
        name="artifact",
        answered_by=f"{precision} on {answered_by.engine}, {answered_by.execution.device}{otherwise}",
        against=quantized.answered_by,
        parity=measure_parity(exact, logits, limit),
    )
    drop = compare_paired(exact.argmax(axis=1), logits.argmax(axis=1), labels_of(plan.photos.proving))
    find_layer = partial(_parted_layer, plan, answered_by, ROUNDED)
    return *before, quantized, check_engine(rung, limit, drop, find_layer)


def answer_as_defined(plan: Plan, precision: Precision, rows: Sequence[int], progress: Progress) -> FloatArray:
    """Return the logits that a precision's core graph gives for these of the kept photos, as ONNX defines it."""
    graph = {precision: CoreSession(plan.core_of(precision).read_bytes())}
    what = f"answering in {_written(precision)}, as ONNX defines it"
    return answer_all(graph, plan.read_kept(rows), len(rows), what, progress)[precision]


def _written(precision: Precision) -> Precision:
    """Return the precision of the core graph that another is computed by: bfloat16 is the engine's own."""
    return "fp32" if precision == "bf16" else precision


def prove_bundle(plan: Plan, bundle: Bundle) -> None:
    """Return if a finished bundle answers from photo files, by the names of its labels, as its parts did.

    Args:
        plan: whose stages are all done.
        bundle: in the folder where it is written; what it answers through may stand in for an engine not here.

    Raises:
        ParityError: another pixel, another answer or another label's name.
    """
    photos = plan.photos.proving[:BUNDLE_PHOTOS]
    rows = plan.photos.rows_of(photos)
    with closing(open_session(bundle, fallback=True)) as session:
        heard = _Heard(session)
        predictor = Predictor(bundle, heard)
        said = [predictor.predict(plan.photos.usable.path_of(photo), top=1).label for photo in photos]
        images = np.concatenate(list(plan.read_kept(rows)))
        expected = _expected(plan, session, rows, images)
    off = int(np.abs(images.astype(np.int16) - np.concatenate(heard.images)).max())
    logits = np.concatenate(heard.logits)
    errors = [(measure_parity(each, logits).max_relative_error, limit) for each, limit in expected]
    named = [plan.photos.usable.labels[best] for best in logits.argmax(axis=1)]
    wrong = [f"{one} for {right}" for one, right in zip(said, named, strict=True) if one != right]
    faults = {
        f"it fits photos otherwise than training did: a pixel differs by {off} levels": off > 0,
        **{
            f"its answers have a relative error of {error:.2g} (at most {limit:g})": not error <= limit
            for error, limit in errors
        },
        f"it says {', '.join(dict.fromkeys(wrong))}": bool(wrong),
    }
    if any(faults.values()):
        found = "; ".join(fault for fault, there in faults.items() if there)
        raise ParityError(
            f"rung 'bundle': the bundle computes something else than its parts, on {len(photos)} photos: {found}. "
            "No bundle was written"
        )


def _expected(
    plan: Plan, session: Session, rows: Sequence[int], images: ImageArray
) -> tuple[tuple[FloatArray, float], ...]:
    """Return what a bundle's session is to answer photo by photo, and how far it may be off: what its parts answered
    for several at once and, where the engine has another model for one alone, what they answer photo by photo: layers
    that round make another level of the last bit in which the two part."""
    artifact, known = session.artifact, plan.held_logits
    # On one CPU the same file gives the same logits; other devices may choose other kernels for another batch.
    limit = MAX_RELATIVE_ERROR if artifact.execution.device == "cpu" else tolerance(artifact)
    # A plan may have come between: what answers now is held against itself then.
    if artifact.engine == PLANNED or artifact.precision not in known:
        return ((session.run(images), limit),)
    together = known[artifact.precision][rows]
    if artifact.engine != TWO_MODELS or artifact.precision == "fp32":
        return ((together, limit),)
    part = plan.as_run(plan.compiled.read("compiled", CompiledStage).of(artifact.precision))
    with closing(open_here(plan.compiled.folder, part)) as parts:
        singly = np.concatenate([parts.run(image[None]) for image in images])
    return (together, tolerance(artifact)), (singly, limit)


class _Heard:
    """A session that keeps what it reads and answers."""

    def __init__(self, session: Session) -> None:
        self.artifact, self.degraded = session.artifact, session.degraded
        self.images: list[ImageArray] = []
        self.logits: list[FloatArray] = []
        self._session = session

    def run(self, images: ImageArray) -> FloatArray:
        """Return the session's logits."""
        self.images.append(images)
        self.logits.append(self._session.run(images))
        return self.logits[-1]

    def close(self) -> None:
        """Close the session."""
        self._session.close()


def _parted_layer(plan: Plan, artifact: Artifact, limit: float) -> str:
    """Return the first layer of an artifact's core graph that the engine which answered computes otherwise."""
    (images,) = plan.read_kept(plan.photos.rows_of(plan.photos.proving[:LOOKED_AT]))
    core = plan.core_of(artifact.precision).read_bytes()
    return find_parted_layer(core, images, partial(run_core, like=artifact), limit)
