"""What the compiled artifacts answer, how fast they are, and which of them ships."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np

from edgetl.bench import answer_all, compare_speed, describe_machine, interleave, is_of_kind, summarise
from edgetl.bundle import Artifact, Rung
from edgetl.data import labels_of
from edgetl.errors import MissingError, ParityError
from edgetl.metrics import (
    Drop,
    accuracy,
    compare_paired,
    confusion_matrix,
    macro_f1,
    signal_to_noise,
    wilson_interval,
)
from edgetl.outcomes import Verdict
from edgetl.pipeline.artifacts import open_here, open_written, size_of, write_artifact
from edgetl.pipeline.damage import measure_damage
from edgetl.pipeline.ladder import answer_as_defined, prove_float, prove_quantized
from edgetl.pipeline.plan import LOGITS, REFERENCE, Plan
from edgetl.pipeline.results import Answered, CompiledStage, Exported, Judged, Measured, Reference, Unseen
from edgetl.pipeline.stages import write_record
from edgetl.quantize import Candidate, decide, is_inside
from edgetl.records import FloatArray, IntArray, Latency, Precision, Progress, SpeedUp
from edgetl.runtime import PLANNED, Session

__all__ = ["answer", "answered", "judged", "reference"]

# How often sessions are opened anew for the speed comparison, for one is fast or slow by where its memory happens to
# lie: more often beside a rival, for a few percent are to be told, and no more once so many seconds are over, for large
# networks take long to open. And calls of each: enough for a p90.
FEWEST, OPENINGS, BESIDE_RIVAL, SECONDS, CALLS = 6, 11, 31, 20.0, 12
# The name under which a plan's rival is timed.
RIVAL = "rival"


def reference(plan: Plan, progress: Progress, folder: Path) -> None:
    """Let the float graph answer for the photos that targets are chosen and measured by, and prove that it computes
    what was trained: once for every target."""
    artifact = write_artifact(folder, plan.core.read_bytes(), "fp32", REFERENCE, plan.info)
    with closing(open_written(folder, artifact)) as session:
        logits = answer({"fp32": session}, range(len(plan.photos.kept)), plan, progress)["fp32"]
        by = _who(session, artifact)
        rung = prove_float(plan, "faced", session, logits[plan.photos.rows_of(plan.photos.proving)])
    np.save(folder / LOGITS, logits, allow_pickle=False)
    write_record(folder, "reference", Reference(artifact=artifact, by=by, rung=rung))


def answered(plan: Plan, progress: Progress, folder: Path) -> None:
    """Let the artifacts that are tried answer for the held-out photos, which one of them is chosen by."""
    made = plan.compiled.read("compiled", CompiledStage)
    tried = [each for each in plan.lower_precisions if each not in plan.standbys]
    answers, done = _prove(map(made.of, tried), plan, progress)
    for precision, logits in answers.items():
        np.save(folder / f"{precision}.npy", logits, allow_pickle=False)
    write_record(folder, "answered", done)


def judged(plan: Plan, progress: Progress, folder: Path) -> None:
    """Time every artifact where this machine is of the device's kind, decide which ships, and measure what ships on
    the photos that nothing was chosen by."""
    held, unseen = plan.photos.held, plan.photos.unseen
    unseen_rows = range(len(held), len(plan.photos.kept))
    made = plan.compiled.read("compiled", CompiledStage)
    held_labels, unseen_labels = labels_of(held), labels_of(unseen)
    floats = np.split(plan.floats, [len(held)])
    proved = plan.reference.read("reference", Reference)
    by: dict[Precision, str] = {"fp32": proved.by}
    rungs: dict[Precision, tuple[Rung, ...]] = {
        "fp32": (plan.exported.read("exported", Exported).rung, proved.rung, *made.rungs)
    }
    on_held = plan.held_logits
    on_unseen: dict[Precision, FloatArray] = {"fp32": floats[1]}
    if plan.lower_precisions:
        tried = plan.answered.read("answered", Answered)
        by |= tried.by
        rungs |= tried.rungs

    latencies = _latencies(plan, made.artifacts, progress)
    verdict = _decide(plan, on_held, latencies, held_labels)
    inside = _is_inside(plan, verdict.drop)
    # What quantizes alike decides for a stand-by too, unless that leaves nothing inside the budget.
    called = [each for each, first in plan.standbys.items() if first == verdict.precision or not inside]
    if called:
        answers, done = _prove(map(made.of, called), plan, progress)
        on_held |= answers
        by |= done.by
        rungs |= done.rungs
        verdict = _decide(plan, on_held, latencies, held_labels)
    ships = _ships(plan, verdict.precision, on_held, held_labels)
    seen = _answer_with(filter(_is_not_reference, map(made.of, ships)), unseen_rows, plan, progress)
    on_unseen |= {precision: logits for precision, (logits, _) in seen.items()}
    by_unseen = {**by, **{precision: _who(ran, made.of(precision)) for precision, (_, ran) in seen.items()}}
    measured = {
        name: Measured(
            precision=name,
            answered_by=by[name],
            size_bytes=size_of(plan.compiled.folder, made.of(name)),
            latency=latencies[name] if latencies else None,
            held_out_accuracy=accuracy(on_held[name].argmax(axis=1), held_labels),
            held_out_drop=_drop(on_held, name, held_labels),
            signal_db=signal_to_noise(on_held["fp32"], on_held[name]),
            unseen=_unseen(on_unseen[name], unseen_labels, len(plan.photos.usable.labels), by_unseen[name])
            if name in on_unseen
            else None,
            rungs=rungs[name],
        )
        for name in ("fp32", *plan.lower_precisions)
        if name in on_held
    }
    damage = measure_damage(floats[1], on_unseen[verdict.precision], unseen, plan.photos.usable.labels)
    record = Judged(
        verdict=verdict,
        ships=ships,
        measured=tuple(measured.values()),
        not_tried={each: first for each, first in plan.standbys.items() if each not in on_held},
        damage=damage,
        missed=_missed(plan, measured[verdict.precision], damage.drop),
        machine=describe_machine(),
    )
    write_record(folder, "judged", record)


def answer(
    sessions: Mapping[Precision, Session], rows: Sequence[int], plan: Plan, progress: Progress
) -> dict[Precision, FloatArray]:
    """Return each session's logits for these of the kept photos, by its precision."""
    return answer_all(sessions, plan.read_kept(rows), len(rows), f"answering in {', '.join(sessions)}", progress)


def _prove(
    artifacts: Iterable[Artifact], plan: Plan, progress: Progress
) -> tuple[dict[Precision, FloatArray], Answered]:
    """Return quantized artifacts' logits for the held-out photos by precision, what computed them, and their rungs.

    Where an engine computes something else than a graph that is outside the budget by itself, the graph's own answers
    are given and refused by: what ships then is proved. A broken graph is computed otherwise by whatever leaves out
    some of its rounding.

    Raises:
        ParityError: an engine computes something else than a graph that might ship.
    """
    by_precision, held = {each.precision: each for each in artifacts}, range(len(plan.photos.held))
    proving = plan.photos.rows_of(plan.photos.proving)
    answers: dict[Precision, FloatArray] = {}
    by: dict[Precision, str] = {}
    rungs: dict[Precision, tuple[Rung, ...]] = {}
    for precision, (logits, ran) in _answer_with(by_precision.values(), held, plan, progress).items():
        artifact = by_precision[precision]
        answers[precision], by[precision] = logits, _who(ran, artifact)
        try:
            rungs[precision] = prove_quantized(plan, artifact, ran, logits[proving], progress)
        except ParityError:
            exact = answer_as_defined(plan, precision, held, progress)
            best, labels = plan.floats[: len(held)].argmax(axis=1), labels_of(plan.photos.held)
            drop = compare_paired(best, exact.argmax(axis=1), labels)
            if "fp32" not in plan.target.engine.precisions or _is_inside(plan, drop):
                raise
            defined = f"{precision} as ONNX defines it"
            progress.say(f"{by[precision]} computes something else than {defined}, which loses too much by itself")
            answers[precision], by[precision], rungs[precision] = exact, defined, ()
    return answers, Answered(by=by, rungs=rungs)


def _answer_with(
    artifacts: Iterable[Artifact], rows: Sequence[int], plan: Plan, progress: Progress
) -> dict[Precision, tuple[FloatArray, Session]]:
    """Return compiled artifacts' logits for these of the kept photos, and the sessions that answered, which are closed
    by now, by precision."""
    with ExitStack() as stack:
        sessions = {
            each.precision: stack.enter_context(closing(open_here(plan.compiled.folder, each))) for each in artifacts
        }
        if not sessions:
            return {}
        answers = answer(sessions, rows, plan, progress)
        return {precision: (answers[precision], session) for precision, session in sessions.items()}


def _who(session: Session, artifact: Artifact) -> str:
    """Return what answered for an artifact, in words."""
    ran = session.artifact
    name = f"{ran.engine} on {ran.execution.device}"
    return f"{name}, in float32" if ran.engine != artifact.engine or session.degraded else name


def _is_not_reference(artifact: Artifact) -> bool:
    """Say whether an artifact runs otherwise than the reference, whose answers are there."""
    runs = (artifact.precision, artifact.engine, artifact.execution.device)
    return runs != ("fp32", REFERENCE.name, REFERENCE.device)


def _decide(
    plan: Plan,
    on_held: Mapping[Precision, FloatArray],
    latencies: Mapping[str, Latency] | None,
    labels: IntArray,
) -> Verdict:
    """Return the verdict on what was looked at for the held-out photos."""

    def speed_up(over: str, precision: Precision) -> SpeedUp | None:
        if latencies is None:
            return None
        before, after = latencies[over], latencies[precision]
        return compare_speed(before, after, rounds=after.count // CALLS)

    rival = plan.rival and _shipped_by(plan.rival)
    candidates = {
        name: Candidate(
            speed_up=speed_up("fp32", name),
            answers=logits.argmax(axis=1),
            over_rival=speed_up(RIVAL, name) if name == rival else None,
        )
        for name, logits in on_held.items()
    }
    return decide(candidates, labels, plan.target, plan.settings.strict_budget)


def _is_inside(plan: Plan, drop: Drop) -> bool:
    """Say whether what was lost on the held-out photos is inside the budget of a build."""
    return is_inside(drop, plan.target.budget.accuracy_drop_points, plan.settings.strict_budget)


def _drop(on_held: Mapping[Precision, FloatArray], precision: Precision, labels: IntArray) -> Drop:
    """Return what a precision loses against float on the held-out photos."""
    return compare_paired(on_held["fp32"].argmax(axis=1), on_held[precision].argmax(axis=1), labels)


def _ships(
    plan: Plan, chosen: Precision, on_held: Mapping[Precision, FloatArray], labels: IntArray
) -> tuple[Precision, ...]:
    """Return the precisions that ship, in the order in which a device tries them, given the logits of those that were
    looked at for the held-out photos."""
    if plan.target.engine.name != PLANNED:
        return (chosen,)
    # What the device can build is known on the device only, so what else is inside the budget goes with it, and float
    # for what answers until there is a plan.
    allowed = plan.target.engine.precisions
    spares = (
        each
        for each in allowed[allowed.index(chosen) + 1 :]
        if each in on_held and _is_inside(plan, _drop(on_held, each, labels))
    )
    return (chosen, *spares, "fp32")


def _unseen(logits: FloatArray, labels: IntArray, classes: int, answered_by: str) -> Unseen:
    """Return what the answers for the evaluation split come to."""
    confusion = confusion_matrix(logits.argmax(axis=1), labels, classes)
    hits = int(np.trace(confusion))
    return Unseen(
        answered_by=answered_by,
        accuracy=hits / len(labels),
        accuracy_interval=wilson_interval(hits, len(labels)),
        macro_f1=macro_f1(confusion),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _latencies(plan: Plan, artifacts: tuple[Artifact, ...], progress: Progress) -> dict[str, Latency] | None:
    """Return each artifact's latency by its precision, and that of the plan's rival, timed in turn; None where this
    machine is not of the device's kind, or one of them cannot run here as it will there."""
    if not is_of_kind(plan.target) or any(each.engine != plan.target.engine.name for each in artifacts):
        return None
    (image,) = plan.read_kept([0])
    timed: dict[str, tuple[Path, Artifact]] = {each.precision: (plan.compiled.folder, each) for each in artifacts}
    if rival := plan.rival:
        made = rival.compiled.read("compiled", CompiledStage)
        timed[RIVAL] = (rival.compiled.folder, made.of(_shipped_by(rival)))
    samples: dict[str, list[float]] = {name: [] for name in timed}
    begun = time.monotonic()
    for opening in range(BESIDE_RIVAL if plan.rival else OPENINGS):
        if opening >= FEWEST and time.monotonic() - begun > SECONDS:
            break
        with ExitStack() as stack:
            calls = {}
            for name, (folder, artifact) in timed.items():
                try:
                    session = open_written(folder, plan.as_run(artifact))
                except MissingError:
                    return None
                calls[name] = partial(stack.enter_context(closing(session)).run, image)
            if opening == 0:
                progress.say("measuring latency")
            for name, latency in interleave(calls, 1, CALLS).items():
                samples[name] += latency.samples_ms
    return {name: summarise(taken) for name, taken in samples.items()}


def _shipped_by(plan: Plan) -> Precision:
    """Return the precision that a plan ships, once it is judged."""
    return plan.judged.read("judged", Judged).verdict.precision


def _missed(plan: Plan, shipped: Measured, drop: Drop) -> tuple[str, ...]:
    """Return, in words, each bound of the target's budget that the shipped artifact misses."""
    budget, split = plan.target.budget, plan.photos.usable.evaluation
    missed = []
    if not is_inside(drop, budget.accuracy_drop_points, strict=False):
        photo = 100.0 / len(plan.photos.unseen)
        coarse = f", but one of so few photos is {photo:.1f}" if photo > budget.accuracy_drop_points else ""
        missed.append(
            f"accuracy drop {drop.points:.2f} points on {len(plan.photos.unseen)} {split} photos, the budget is "
            f"{budget.accuracy_drop_points:g}{coarse}"
        )
    if budget.latency_ms_p50 is not None and (shipped.p50_ms or 0.0) > budget.latency_ms_p50:
        missed.append(f"latency p50 {shipped.p50_ms:.2f} ms here, the budget is {budget.latency_ms_p50:g} ms")
    if budget.size_bytes is not None and shipped.size_bytes > budget.size_bytes:
        missed.append(f"size {shipped.size_bytes} bytes, the budget is {budget.size_bytes} bytes")
    return tuple(missed)
