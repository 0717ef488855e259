"""What the compiled artifacts answer, how fast they are, and which of them ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np

from edgetl.bench import answer_all, describe_machine, interleave, is_of_kind
from edgetl.bundle import Artifact
from edgetl.data import Item, image_batches, labels_of, load_image
from edgetl.errors import MissingError
from edgetl.export import measure_parity
from edgetl.metrics import PairedResult, accuracy, compare_paired, confusion_matrix, macro_f1, wilson_interval
from edgetl.pipeline.artifacts import open_core, open_here, open_written, size_of
from edgetl.pipeline.plan import BATCH, REFERENCE, Plan
from edgetl.pipeline.results import Answered, CompiledStage, Judged, Measured, Reference, Unseen
from edgetl.pipeline.stages import write_record
from edgetl.quantize import Candidate, Verdict, allowed_drop, decide
from edgetl.records import FloatArray, IntArray, Latency, Precision, Preprocess, Progress
from edgetl.runtime import PLANNED, Session

__all__ = ["answer", "answered", "judged", "reference"]

# What the reference stage leaves.
LOGITS = "logits.npy"
# Turns and calls a turn of the speed comparison: enough for a p90.
ROUNDS, PER_ROUND = 10, 20


def reference(plan: Plan, progress: Progress, folder: Path) -> None:
    """Let the float core graph answer, once for all targets, for the photos that they are chosen and measured by."""
    _, held, unseen = plan.parts
    with closing(open_core(plan.core.read_bytes(), REFERENCE)) as session:
        logits = answer({"fp32": session}, (*held, *unseen), plan.faced, plan, progress)["fp32"]
        record = Reference(by=_who(session, session.artifact))
    np.save(folder / LOGITS, logits, allow_pickle=False)
    write_record(folder, "reference", record)


def answered(plan: Plan, progress: Progress, folder: Path) -> None:
    """Let every artifact below float32 answer for the held-out photos, which one of them is chosen by."""
    made = plan.compiled.read("compiled", CompiledStage)
    answers, by = _answer_with([made.of(each) for each in plan.lower_precisions], plan.parts[1], plan, progress)
    for precision, logits in answers.items():
        np.save(folder / f"{precision}.npy", logits, allow_pickle=False)
    write_record(folder, "answered", Answered(by=by))


def judged(plan: Plan, progress: Progress, folder: Path) -> None:
    """Time every artifact where this machine is of the device's kind, decide which ships, and measure what ships on
    the photos that nothing was chosen by."""
    _, held, unseen = plan.parts
    made = plan.compiled.read("compiled", CompiledStage)
    held_labels, unseen_labels = labels_of(held), labels_of(unseen)
    floats = np.split(np.load(plan.reference.folder / LOGITS, allow_pickle=False), [len(held)])
    by: dict[Precision, str] = {"fp32": plan.reference.read("reference", Reference).by}
    on_held: dict[Precision, FloatArray] = {"fp32": floats[0]}
    on_unseen: dict[Precision, FloatArray] = {"fp32": floats[1]}
    if plan.lower_precisions:
        by |= plan.answered.read("answered", Answered).by
        on_held |= {
            each: np.load(plan.answered.folder / f"{each}.npy", allow_pickle=False) for each in plan.lower_precisions
        }

    latencies = _latencies(plan, made.artifacts, progress)
    candidates: dict[Precision, Candidate] = {
        name: Candidate(latency_p50_ms=latencies[name].p50_ms if latencies else None, answers=logits.argmax(axis=1))
        for name, logits in on_held.items()
    }
    verdict = decide(candidates, held_labels, plan.target)
    ships = _ships(plan, verdict, candidates, held_labels)
    answers, who = _answer_with(list(filter(_is_not_reference, map(made.of, ships))), unseen, plan, progress)
    on_unseen |= answers
    measured = {
        name: Measured(
            precision=name,
            answered_by=by[name],
            size_bytes=size_of(plan.compiled.folder, made.of(name)),
            latency=latencies[name] if latencies else None,
            held_out_accuracy=accuracy(candidates[name].answers, held_labels),
            unseen=_unseen(on_unseen[name], unseen_labels, len(plan.usable.labels), {**by, **who}[name])
            if name in on_unseen
            else None,
            parity=made.parity if name == "fp32" else measure_parity(floats[0], logits),
        )
        for name, logits in on_held.items()
    }
    loss = compare_paired(floats[1].argmax(axis=1), on_unseen[verdict.precision].argmax(axis=1), unseen_labels)
    record = Judged(
        verdict=verdict,
        ships=ships,
        measured=tuple(measured.values()),
        missed=_missed(plan, measured[verdict.precision], loss),
        machine=describe_machine(),
    )
    write_record(folder, "judged", record)


def answer(
    sessions: Mapping[Precision, Session], items: tuple[Item, ...], how: Preprocess, plan: Plan, progress: Progress
) -> dict[Precision, FloatArray]:
    """Return each session's logits for the items' photos, by its precision."""
    batches = image_batches(plan.usable, items, how, BATCH)
    return answer_all(sessions, batches, len(items), f"answering in {', '.join(sessions)}", progress)


def _answer_with(
    artifacts: Sequence[Artifact], items: tuple[Item, ...], plan: Plan, progress: Progress
) -> tuple[dict[Precision, FloatArray], dict[Precision, str]]:
    """Return compiled artifacts' logits for the items' photos, and what computed them, both by precision."""
    if not artifacts:
        return {}, {}
    with ExitStack() as stack:
        sessions = {
            each.precision: stack.enter_context(closing(open_here(plan.compiled.folder, each))) for each in artifacts
        }
        answers = answer(sessions, items, plan.faced, plan, progress)
        return answers, {each.precision: _who(sessions[each.precision], each) for each in artifacts}


def _who(session: Session, artifact: Artifact) -> str:
    """Return what answers for an artifact, in words."""
    opened = session.artifact
    name = f"{opened.engine} on {opened.execution.device}"
    return name if opened.engine == artifact.engine else f"{name}, in float32"


def _is_not_reference(artifact: Artifact) -> bool:
    """Say whether an artifact runs otherwise than the reference, whose answers are there."""
    runs = (artifact.precision, artifact.engine, artifact.execution.device)
    return runs != ("fp32", REFERENCE.name, REFERENCE.device)


def _ships(
    plan: Plan, verdict: Verdict, candidates: Mapping[Precision, Candidate], labels: IntArray
) -> tuple[Precision, ...]:
    """Return the precisions that ship, in the order in which a device tries them."""
    if plan.target.engine.name != PLANNED:
        return (verdict.precision,)
    # What the device can build is known on the device only, so what else is inside the budget goes with it, and float
    # for what answers until there is a plan.
    budget, allowed = plan.target.budget.accuracy_drop_points, plan.target.engine.precisions
    spares = (
        each
        for each in allowed[allowed.index(verdict.precision) + 1 :]
        if compare_paired(candidates["fp32"].answers, candidates[each].answers, labels).drop_points
        <= allowed_drop(budget, len(labels))
    )
    return (verdict.precision, *spares, "fp32")


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


def _latencies(plan: Plan, artifacts: tuple[Artifact, ...], progress: Progress) -> dict[Precision, Latency] | None:
    """Return each artifact's latency by its precision, timed in turn; None where this machine is not of the device's
    kind, or one of them cannot run here as it will there."""
    if not is_of_kind(plan.target) or any(each.engine != plan.target.engine.name for each in artifacts):
        return None
    with ExitStack() as stack:
        calls = {}
        image = load_image(plan.usable.path_of(plan.parts[1][0]), plan.faced)[None]
        for each in artifacts:
            try:
                session = open_written(plan.compiled.folder, plan.as_run(each))
            except MissingError:
                return None
            calls[each.precision] = partial(stack.enter_context(closing(session)).run, image)
        progress.say("measuring latency")
        return interleave(calls, ROUNDS, PER_ROUND)


def _missed(plan: Plan, shipped: Measured, loss: PairedResult) -> tuple[str, ...]:
    """Return, in words, each bound of the target's budget that the shipped artifact misses."""
    budget, split = plan.target.budget, plan.usable.evaluation
    missed = []
    if loss.drop_points > allowed_drop(budget.accuracy_drop_points, loss.images):
        missed.append(
            f"accuracy drop {loss.drop_points:.2f} points on {split}, the budget is {budget.accuracy_drop_points:g}"
        )
    if budget.latency_ms_p50 is not None and (shipped.p50_ms or 0.0) > budget.latency_ms_p50:
        missed.append(f"latency p50 {shipped.p50_ms:.2f} ms here, the budget is {budget.latency_ms_p50:g} ms")
    if budget.size_bytes is not None and shipped.size_bytes > budget.size_bytes:
        missed.append(f"size {shipped.size_bytes} bytes, the budget is {budget.size_bytes} bytes")
    return tuple(missed)
