"""A build before it runs: what was asked, what was found, and each stage by the hash of all that it depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgetl.backbones import Backbone, load_backbone
from edgetl.bundle import Artifact, Weights
from edgetl.compile import ModelInfo
from edgetl.data import Item
from edgetl.export import ForeignGraph
from edgetl.finetune import Workbench, trained_blocks
from edgetl.outcomes import ViewChoice
from edgetl.pipeline.photos import Photos
from edgetl.pipeline.request import Request
from edgetl.pipeline.results import Exported, Way
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage
from edgetl.pipeline.training import Training, rounding_of
from edgetl.quantize import select_items
from edgetl.recipe import CalibrationRecipe
from edgetl.records import Execution, FloatArray, ImageArray, Precision, Preprocess, Progress
from edgetl.runtime import PLANNED, devices_of, paint_border
from edgetl.target import ENGINE_KINDS, EngineProfile, TargetProfile

__all__ = [
    "BATCH",
    "CLASSIFIER",
    "CORE",
    "EXPECTED",
    "EXPORTING",
    "FEATURES",
    "HEAD",
    "LINE",
    "LOGITS",
    "PHOTOS",
    "REFERENCE",
    "VIEWS",
    "Plan",
]

# What the export stage is proved on, what answers in float for every target, and what stands in where the target's
# engine cannot run here.
REFERENCE = EngineProfile(name="onnxruntime", precisions=("fp32",))
# What stages leave: the trained network's answers, the frozen backbone's and those for photos changed in training's
# way, the photos, the float graph's answers.
EXPECTED, FEATURES, VIEWS = "expected.npy", "features.npy", "views.npy"
PHOTOS, LOGITS = "photos.npy", "logits.npy"
CORE, CLASSIFIER, HEAD = "core.onnx", "classifier.safetensors", "head.safetensors"
# Photos that go through a graph at once.
BATCH = 16
# Code of the line itself that decides what goes into a stage and what it leaves.
LINE = (
    "pipeline/artifacts", "pipeline/networks", "pipeline/photos", "pipeline/plan", "pipeline/prepare",
    "pipeline/request", "pipeline/results", "pipeline/steps", "pipeline/training",
)  # fmt: skip
EXPORTING = ("export", "compile", "bench/accuracy", "pipeline/exporting", "pipeline/ladder", "pipeline/measure")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A build before it runs: what was asked, what was found, and its stages in order.

    The network is trained here, or `graph` is one that was trained elsewhere: one of the two is None. Of the request's
    recipes this plan quantizes by `recipe`, leaves `float_layers`, nodes of the core graph, as they are, and, where it
    is `aware`, first trains the network quantization-aware. Where `rival` is not None, it quantizes as that does but
    for one scale for each weight, and must be faster. `engines` are the versions of what compiles and quantizes, `key`
    is the request's as it was then: files may change while a build goes on.
    """

    request: Request
    key: str
    recipe: CalibrationRecipe
    float_layers: tuple[str, ...]
    aware: bool
    rival: Plan | None = None
    engines: dict[str, str]
    photos: Photos
    training: Training | None
    graph: ForeignGraph | None
    decoded: Stage
    exported: Stage
    reference: Stage

    @property
    def settings(self) -> BuildSettings:
        """What the user asks for."""
        return self.request.settings

    @property
    def target(self) -> TargetProfile:
        """The target, with what the settings change of it."""
        return self.request.target

    @property
    def recipes(self) -> tuple[CalibrationRecipe, ...]:
        """The recipes that may be tried, cheap first."""
        return self.request.recipes

    @property
    def trained(self) -> Training:
        """How the network is trained.

        Raises:
            LookupError: it was trained elsewhere.
        """
        if self.training is None:
            raise LookupError(f"{self.origin.source} was trained elsewhere")
        return self.training

    @property
    def backbone_name(self) -> str:
        """What the network is called: the backbone's name, or the file's."""
        return self.graph.name if self.graph else self.settings.backbone

    @property
    def origin(self) -> Weights:
        """Where the weights come from."""
        if self.graph is None:
            return self.trained.weights.record
        return Weights(source=self.graph.name, identity=self.graph.identity, licence="as the file's owner says")

    @property
    def original(self) -> str:
        """What every rung of the ladder is held against in the end, in words."""
        return f"{self.graph.name} as it stands" if self.graph else "the trained network"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that leave something in the cache, in order."""
        before, after = [], []
        if self.training:
            before, after = [self.training.view], [self.training.frozen, self.training.tuned]
        every = (
            self.photos.check, *before, self.decoded, *after, self.exported, self.reference, self.qat,
            self.qat_exported, self.calibrated, self.quantized, self.compiled, self.answered, self.judged,
        )  # fmt: skip
        idle = [] if self.calibrates else [self.calibrated]
        idle += [] if self.aware else [self.qat, self.qat_exported]
        if not self.lower_precisions:
            idle += [self.quantized, self.answered]
        return tuple(stage for stage in every if stage not in idle)

    def vary(
        self, recipe: CalibrationRecipe | None = None, float_layers: tuple[str, ...] = (), aware: bool | None = None
    ) -> Plan:
        """Return the plan that quantizes otherwise, and shares all up to there: by another recipe, with layers left in
        float, or after quantization-aware training; None keeps what this plan does."""
        return replace(
            self,
            recipe=recipe or self.recipe,
            float_layers=float_layers,
            aware=self.aware if aware is None else aware,
            rival=None,
        )

    @property
    def per_tensor(self) -> Plan:
        """The plan that quantizes as this one does but for one scale for each weight, and must be faster."""
        return replace(self, rival=self)

    @property
    def way(self) -> Way:
        """How this plan quantizes, for the report."""
        return Way(
            recipe=self.recipe.name,
            aware=self.aware,
            per_tensor=self.rival is not None,
            float_layers=self.float_layers,
        )

    @property
    def rounding(self) -> CalibrationRecipe:
        """The recipe that weights are rounded by: that which calibrates, but for one scale where the plan says so."""
        return self.recipe.model_copy(update={"per_channel": False}) if self.rival else self.recipe

    @cached_property
    def qat(self) -> Stage:
        """The stage of quantization-aware training."""
        rounding = asdict(rounding_of(self.target.engine.name, self.recipe))
        return Stage.of("qat", (), self.training and self.training.tuned, self.settings.qat, rounding)

    @cached_property
    def qat_exported(self) -> Stage:
        """The stage that exports what that gave."""
        return Stage.of("qat_exported", (), self.qat, self.exported)

    @cached_property
    def calibrated(self) -> Stage:
        """The stage that finds the ranges of activations."""
        source = self.qat_exported if self.aware else self.exported
        return Stage.of("calibrated", ("quantize",), source, self.recipe.model_dump())

    @cached_property
    def quantized(self) -> Stage:
        """The stage that makes the graphs below float32."""
        coarse = self.rival is not None
        by = [self.target.engine.name, *(self.engines.get(name) for name in ("nvidia-modelopt", "nncf"))]
        return Stage.of("quantized", (), self.calibrated, by, self.lower_precisions, self.float_layers, coarse)

    @cached_property
    def compiled(self) -> Stage:
        """The stage that gives every graph the form of the target's engine."""
        engine, lower = self.target.engine, self.quantized if self.lower_precisions else None
        how = engine.execution if engine.name == PLANNED else Execution(device=engine.device)
        return Stage.of(
            "compiled", (), self.reference, lower, engine.name, how.model_dump(), self.engines, devices_of(engine.name)
        )

    @cached_property
    def answered(self) -> Stage:
        """The stage in which the graphs below float32 answer for the held-out photos."""
        return Stage.of("answered", (), self.compiled)

    @cached_property
    def judged(self) -> Stage:
        """The stage that decides what ships."""
        rooms = ("quantize", "bench", "pipeline/damage")
        rival = self.rival and self.rival.compiled
        return Stage.of("judged", rooms, self.answered, rival, self.target.model_dump(), self.settings.strict_budget)

    @property
    def calibrates(self) -> bool:
        """Whether a precision of the target's is quantized by the ranges of activations."""
        return any(each.startswith("int8") for each in self.lower_precisions)

    @property
    def lower_precisions(self) -> tuple[Precision, ...]:
        """The precisions that the target allows below float32."""
        return tuple(each for each in self.target.engine.precisions if each != "fp32")

    @property
    def standbys(self) -> dict[Precision, Precision]:
        """The lower precisions that quantize as an earlier one does and differ in the rest only, each with that one."""
        first: dict[str, Precision] = {}
        behind = {each: first.setdefault(each.partition("+")[0], each) for each in self.lower_precisions}
        return {each: before for each, before in behind.items() if each != before}

    def engine_for(self, precision: Precision) -> EngineProfile:
        """Return the engine that an artifact of this precision is compiled for, with nothing said of how it is run, but
        for a plan, which depends on it: targets that differ in that only share the artifacts."""
        engine = self.target.engine
        if precision not in ENGINE_KINDS[engine.name].precisions:
            return REFERENCE
        if engine.name == PLANNED:
            return engine
        return EngineProfile(name=engine.name, device=engine.device, precisions=engine.precisions)

    def as_run(self, artifact: Artifact) -> Artifact:
        """Return an artifact with how the target runs it."""
        engine = self.target.engine
        return (
            artifact.model_copy(update={"execution": engine.execution}) if artifact.engine == engine.name else artifact
        )

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone, loaded when first needed."""
        asked = self.settings
        backbone = load_backbone(asked.backbone, self.trained.weights, asked.image_size, asked.seed)
        trained_blocks(backbone.module, asked.unfreeze)  # refused before the first photo is seen
        return backbone

    @cached_property
    def calibration_photos(self) -> tuple[Item, ...]:
        """The training photos that calibrate by the plan's recipe, once the frozen stage is done.

        Raises:
            CalibrationError: the recipe wants their features, which only a network that is trained here has.
        """
        train = self.photos.train
        features: FloatArray | None = None
        if self.recipe.select == "diverse" and self.training:
            features = np.load(self.training.frozen.folder / FEATURES, mmap_mode="r")[: len(train)]
        return select_items(train, self.recipe, features)

    @property
    def core(self) -> Path:
        """The file of the float core graph, once the export stage is done."""
        return self.exported.folder / CORE

    @property
    def trained_core(self) -> Path:
        """The file of the float core graph, after quantization-aware training where the plan has it."""
        return (self.qat_exported if self.aware else self.exported).folder / CORE

    @property
    def lower_core(self) -> Path:
        """The file of the float core graph that is quantized: equalized, where the recipe asks and that helps."""
        equalized = self.calibrates and self.recipe.equalize
        return self.calibrated.folder / CORE if equalized else self.trained_core

    def core_of(self, precision: Precision) -> Path:
        """Return the file of a precision's core graph, once the stage that makes it is done."""
        return self.core if precision == "fp32" else self.quantized.folder / f"{precision}.onnx"

    @property
    def expected(self) -> FloatArray:
        """The original network's logits for `photos.proving`, once the export stage is done."""
        logits: FloatArray = np.load(self.exported.folder / EXPECTED, allow_pickle=False)
        return logits

    @property
    def faced(self) -> Preprocess:
        """The preprocessing of the exported graph, once the export stage is done: with the border that it asks for."""
        return self.exported.read("exported", Exported).preprocess

    @property
    def floats(self) -> FloatArray:
        """The float graph's logits for `photos.kept`, once the reference stage is done."""
        logits: FloatArray = np.load(self.reference.folder / LOGITS, allow_pickle=False)
        return logits

    @property
    def held_logits(self) -> dict[Precision, FloatArray]:
        """The logits for the held-out photos of what has answered by now, by precision; float's once the reference
        stage is done."""
        tried = [each for each in self.lower_precisions if each not in self.standbys]
        lower = {each: np.load(self.answered.folder / f"{each}.npy", allow_pickle=False) for each in tried}
        return {"fp32": self.floats[: len(self.photos.held)], **lower}

    def bench(self, progress: Progress) -> Workbench:
        """Return what training works with, once the check stage is done."""
        return Workbench(dataset=self.photos.usable, device=self.trained.device, progress=progress)

    @property
    def info(self) -> ModelInfo:
        """What an artifact says of itself, once the export stage is done."""
        return ModelInfo(labels=self.photos.usable.labels, preprocess=self.faced)

    def read_kept(self, rows: Sequence[int]) -> Iterator[ImageArray]:
        """Yield photos of `photos.kept` as the network reads them, uint8 of shape (up to BATCH, height, width, 3), once
        the export stage is done.

        Args:
            rows: which, in which order.
        """
        photos, how = np.load(self.decoded.folder / PHOTOS, mmap_mode="r"), self.faced
        for start in range(0, len(rows), BATCH):
            yield np.stack([paint_border(photos[row], how) for row in rows[start : start + BATCH]])

    @cached_property
    def borderless(self) -> Preprocess:
        """The preprocessing that training uses, once the view stage is done, or that the file wants: no border yet."""
        if self.graph:
            return self.graph.preprocess
        return self.backbone.preprocess.model_copy(update={"fit": self.trained.view.read("view", ViewChoice).fit})
