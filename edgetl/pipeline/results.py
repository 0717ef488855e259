"""What the stages leave behind, and what a build came to: `report.json` in the bundle."""

from __future__ import annotations

from typing import Literal

from edgetl.bench import Machine
from edgetl.bundle import Accuracies, Artifact, Rung
from edgetl.data import Check
from edgetl.metrics import MOST_DB, Drop
from edgetl.outcomes import History, Statistics, Verdict, ViewChoice
from edgetl.pipeline.damage import Damage
from edgetl.records import HeadKind, Latency, Precision, Preprocess, Record

__all__ = [
    "Answered",
    "BuildReport",
    "Calibrated",
    "Calibration",
    "CompiledStage",
    "Exported",
    "Frozen",
    "Judged",
    "Measured",
    "Ranked",
    "Reference",
    "Seconds",
    "Summary",
    "Taught",
    "Tried",
    "Tuned",
    "Unseen",
    "Way",
]


class Frozen(Record):
    """The frozen stage: its head and, where it has one, the strength that cross-validation chose, what it answers, how
    long it took."""

    head: HeadKind
    strength: float | None
    held_out_accuracy: float
    accuracy: float
    seconds: float


class Tuned(Record):
    """The fine-tuning stage, and the rate that the backbone was trained at."""

    history: History
    rate: float
    seconds: float


class Exported(Record):
    """The export stage: which exporter made the core graph, what was wrong with those tried before, the preprocessing
    with the border that the graph asks for, and the graph's rung."""

    exporter: str
    refused: tuple[str, ...]
    preprocess: Preprocess
    rung: Rung


class Taught(Record):
    """What training came to: how photos are fitted, the frozen stage, the fine-tuning stage."""

    view: ViewChoice
    frozen: Frozen
    tuned: Tuned


class Reference(Record):
    """The reference stage: the float artifact in its folder, what answered for it, in words, and its rung."""

    artifact: Artifact
    by: str
    rung: Rung


class Calibration(Record):
    """Which training photos were looked at: the recipe, each photo's path and sha256, the sha256 over these (of the
    hashes in order, a line each), and what is amiss with them, in words."""

    recipe: str
    photos: dict[str, str]
    sha256: str
    remarks: tuple[str, ...]


class Calibrated(Record):
    """The calibration stage: what was looked at, and what was seen of each activation."""

    calibration: Calibration
    statistics: Statistics


class Ranked(Record):
    """How much signal is left of the logits, in decibels, where one layer alone is quantized, worst first."""

    decibels: dict[str, float]


class CompiledStage(Record):
    """The compiling stage: the artifacts in its folder, and the float32 one's rungs beyond the reference's."""

    artifacts: tuple[Artifact, ...]
    rungs: tuple[Rung, ...]

    def of(self, precision: Precision) -> Artifact:
        """Return the artifact of a precision that was compiled."""
        return next(each for each in self.artifacts if each.precision == precision)


class Answered(Record):
    """The answering stage: by precision, what answered for the held-out photos, in words, and its rungs."""

    by: dict[Precision, str]
    rungs: dict[Precision, tuple[Rung, ...]]


class Unseen(Record):
    """What the answers for the evaluation split come to, which edgetl chose nothing by, and what computed them."""

    answered_by: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    confusion: tuple[tuple[int, ...], ...]


class Measured(Record):
    """One artifact as measured here.

    `answered_by` is what answered for the held-out photos: for float the reference, else the artifact's own engine or,
    where that is not here, another on the same graph; `held_out_drop` is what it loses there against float, and
    `signal_db` how much is left of the signal of float's logits, in decibels, `MOST_DB` where they stay. `latency`
    is None where this machine is not of the device's kind; `unseen` where the artifact does not ship, for the
    evaluation split measures float and what ships. `rungs` are those of the ladder that are its own: a quantized
    artifact stands on float's.
    """

    precision: Precision
    answered_by: str
    size_bytes: int
    latency: Latency | None
    held_out_accuracy: float
    held_out_drop: Drop
    signal_db: float
    unseen: Unseen | None
    rungs: tuple[Rung, ...]

    @property
    def p50_ms(self) -> float | None:
        """The median latency, None where it was not measured."""
        return self.latency.p50_ms if self.latency else None

    @property
    def accuracy(self) -> float | None:
        """The accuracy on the evaluation split, None where it was not measured."""
        return self.unseen.accuracy if self.unseen else None


class Judged(Record):
    """The measuring stage: the figures of every artifact that was tried, float's first, and which ships.

    `ships` lists the precisions in the order in which a device tries them: one, but for an engine that makes its plan
    on the device. `not_tried` names those of the target's that quantize as another does, and that other, which decided
    for both. `damage` is what the one that ships first does to float's answers.
    """

    verdict: Verdict
    ships: tuple[Precision, ...]
    measured: tuple[Measured, ...]
    not_tried: dict[Precision, Precision]
    damage: Damage
    missed: tuple[str, ...]
    machine: Machine

    def of(self, precision: Precision) -> Measured:
        """Return the figures of one precision."""
        return next(each for each in self.measured if each.precision == precision)

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs from the trained network to what ships first."""
        shipped = self.verdict.precision
        return (*self.of("fp32").rungs, *(self.of(shipped).rungs if shipped != "fp32" else ()))

    def unseen_of(self, precision: Precision) -> Unseen:
        """Return what one precision came to on the evaluation split.

        Raises:
            LookupError: it does not ship, so it was not measured there.
        """
        unseen = self.of(precision).unseen
        if unseen is None:
            raise LookupError(f"{precision} does not ship: it was not measured on the evaluation split")
        return unseen


class Way(Record):
    """A way to quantize: the recipe, whether the network was trained quantization-aware first, whether each weight has
    one scale, whatever the recipe says, and the nodes of the core graph that stay in float."""

    recipe: str
    aware: bool
    per_tensor: bool
    float_layers: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.float_layers)
        left = f", {count} layer{'s' * (count > 1)} in float" if count else ""
        return (
            f"recipe {self.recipe}{', after quantization-aware training' * self.aware}"
            f"{', one scale for each weight' * self.per_tensor}{left}"
        )


class Tried(Record):
    """A way to quantize that was judged, what was said of it, what it lost on the held-out photos, and how much is left
    of the signal of float's logits, in decibels; both by precision."""

    way: Way
    reason: str
    drops: dict[Precision, Drop]
    signals_db: dict[Precision, float]

    @property
    def signals_in_words(self) -> str:
        """How much of float's signal is left, by precision."""
        left = [f"{each} {f'{one:.1f} dB' if one < MOST_DB else 'all'}" for each, one in self.signals_db.items()]
        return f"signal left of float's logits: {', '.join(left)}"


class Seconds(Record):
    """How long the stages took when they were made, None where there were none, and how long the last build took with
    what it found done."""

    frozen: float | None
    tune: float | None
    total: float


class BuildReport(Record):
    """Everything a build measured and decided.

    How photos are seen was chosen by cross-validation on a sample of `train_images`; regularisation, when to stop and
    precision on `held_out_images`, training photos held out of training; `accuracy` is on a split that edgetl
    chose nothing by. `way` is the way to quantize by which the bundle was made, None where nothing is calibrated;
    `tried` are all ways in their order, that one among them. `qat` is the quantization-aware training, None where there
    was none. `training` is None where the network was trained elsewhere.
    """

    backbone: str
    target: str
    labels: tuple[str, ...]
    train_images: int
    held_out_images: int
    check: Check
    training: Taught | None
    exporter: str
    refused_exports: tuple[str, ...]
    calibration: Calibration | None
    accuracy: Accuracies
    tried: tuple[Tried, ...]
    way: Way | None
    qat: Tuned | None
    judged: Judged
    seconds: Seconds
    seed: int
    command: str


class Summary(Record):
    """The object that `edgetl build --json` prints; accuracies in [0, 1], latencies in milliseconds.

    `accuracy` and `drop`, what was lost against float unless that ships, are on the `images` photos of `split`, which
    edgetl chose nothing by; `reason` is the verdict's, with what so few photos cannot tell; `missed` are the bounds of
    the budget that what ships misses.
    """

    bundle: str
    target: str
    engine: str
    precision: Precision
    reason: str
    classes: int
    split: Literal["val", "test"]
    images: int
    accuracy: dict[str, float]
    drop: Drop | None
    missed: tuple[str, ...]
    latency_ms: dict[str, float | None]
    size_bytes: dict[str, int]
    seconds: Seconds

    @classmethod
    def of(cls, bundle: str, engine: str, report: BuildReport) -> Summary:
        """Return the summary of a report; `bundle` is the bundle's folder."""
        plain, shipped = report.judged.of("fp32"), report.judged.of(report.judged.verdict.precision)
        return cls(
            bundle=bundle,
            target=report.target,
            engine=engine,
            precision=shipped.precision,
            reason=". ".join(filter(None, (report.judged.verdict.reason, report.judged.verdict.remark))),
            classes=len(report.labels),
            split=report.accuracy.split,
            images=report.accuracy.images,
            accuracy={
                **({} if report.accuracy.frozen is None else {"frozen": report.accuracy.frozen}),
                "float": report.accuracy.float_,
                "shipped": report.accuracy.shipped,
            },
            drop=None if shipped is plain else report.judged.damage.drop,
            missed=report.judged.missed,
            latency_ms={"float_p50": plain.p50_ms, "shipped_p50": shipped.p50_ms},
            size_bytes={"float": plain.size_bytes, "shipped": shipped.size_bytes},
            seconds=report.seconds,
        )
