"""Plans a build: reads what was asked for, and names each stage by the hash of all that its output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch

from edgetl.backbones import Backbone, WeightsChoice, choose_weights, load_backbone
from edgetl.bench import describe_machine, versions_of
from edgetl.bundle import check_output
from edgetl.data import Check, Dataset, Item, balanced, hold_out, read_dataset, without_bad
from edgetl.errors import DataError, MissingError, SettingsError
from edgetl.finetune import TuneSettings, ViewChoice, Workbench, pick_device
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage
from edgetl.recipe import CalibrationRecipe, load_recipe
from edgetl.records import Preprocess, Progress
from edgetl.target import ENGINE_EXTRAS, TargetProfile, load_target

__all__ = ["Plan", "make_plan"]

# Share of the training photos that every choice is made on.
HELD_OUT = 0.1
# Photos that parity is measured on, at the most.
PARITY_PHOTOS = 128
# AdamW's rates for the backbone: held-out photos of TrashNet (squeezenet1_1) and of digits (edgetl/nano) answered best.
# The head's is five times as high: it is new.
RATE, RATE_WITH_BATCHNORM, HEAD_RATE = 2e-4, 1e-3, 5
# Code of the line itself that decides what goes into a stage and what it leaves.
LINE = ("pipeline/artifacts", "pipeline/plan", "pipeline/results", "pipeline/steps")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A build before it runs: what was asked, what was found, and its stages in order."""

    settings: BuildSettings
    target: TargetProfile
    recipe: CalibrationRecipe
    dataset: Dataset
    weights: WeightsChoice
    device: torch.device
    check: Stage
    view: Stage
    frozen: Stage
    tuned: Stage
    exported: Stage
    quantized: Stage | None
    compiled: Stage
    judged: Stage
    bundle: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that leave something in the cache, in order."""
        every = (
            self.check, self.view, self.frozen, self.tuned, self.exported, self.quantized, self.compiled, self.judged,
        )  # fmt: skip
        return tuple(stage for stage in every if stage is not None)

    @property
    def tuning(self) -> TuneSettings:
        """The settings of the fine-tuning stage, once the view stage is done."""
        rate = self.settings.lr
        if rate is None:
            kinds = (type(part).__name__ for part in self.backbone.module.modules())
            rate = RATE_WITH_BATCHNORM if any(kind.startswith("BatchNorm") for kind in kinds) else RATE
        return TuneSettings(
            epochs=self.settings.epochs,
            backbone_lr=rate,
            head_lr=min(1.0, HEAD_RATE * rate),
            mirror=self.view.read("view", ViewChoice).mirror,
            seed=self.settings.seed,
        )

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone, loaded when first needed."""
        return load_backbone(self.settings.backbone, self.weights, self.settings.image_size, self.settings.seed)

    @cached_property
    def usable(self) -> Dataset:
        """The photos that can be read, once the check stage is done."""
        return without_bad(self.dataset, self.check.read("check", Check), self.settings.skip_bad)

    def refuse_bad(self) -> None:
        """Return if every photo can be read, or the bad ones are to be skipped; needs the check stage.

        Raises:
            DataError: names the bad photos.
        """
        _ = self.usable

    @cached_property
    def parts(self) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]:
        """Photos to train on, photos held out to choose by, and photos that nothing is chosen by.

        Raises:
            DataError: no class has two training photos, so nothing can be held out.
        """
        rest, held = hold_out(self.usable.of("train"), HELD_OUT, self.settings.seed)
        if not held:
            raise DataError(
                f"{self.settings.data}: every class has a single training photo, so none can be held out to choose by. "
                "Add photos: twenty a class is a good start"
            )
        return rest, held, self.usable.of(self.usable.evaluation)

    def bench(self, progress: Progress) -> Workbench:
        """Return what training works with, once the check stage is done."""
        return Workbench(dataset=self.usable, device=self.device, progress=progress)

    @property
    def parity_photos(self) -> tuple[Item, ...]:
        """The held-out photos that artifacts are proved on."""
        return balanced(self.parts[1], PARITY_PHOTOS, self.settings.seed)

    @cached_property
    def photo(self) -> Preprocess:
        """The preprocessing that training uses, once the view stage is done: no border yet."""
        return self.backbone.preprocess.model_copy(update={"fit": self.view.read("view", ViewChoice).fit})


def make_plan(settings: BuildSettings, progress: Progress) -> Plan:
    """Return the plan of a build: the photos are listed and hashed, nothing else is done.

    Raises:
        EdgetlError: what was asked for does not exist, is not here, or cannot be used.
    """
    check_output(settings.out)
    target, recipe = load_target(settings.target), load_recipe(settings.recipe)
    engine = target.engine.name
    if find_spec(engine) is None:  # said before hours of training
        raise MissingError(
            f"{engine} is needed to build for {target.name} and is not installed. "
            f"Run: pip install 'edgetl[{ENGINE_EXTRAS[engine]}]'"
        )
    weights = choose_weights(settings.backbone, settings.weights, settings.seed)
    device = pick_device(settings.device)
    if settings.out.resolve().is_relative_to(Path(settings.data).resolve()):
        raise SettingsError(
            f"--out {settings.out} lies inside --data {settings.data}: its photos would be taken for yours the next "
            "time. Choose an --out beside it"
        )
    dataset = read_dataset(settings.data, settings.seed, progress)
    readers = versions_of(("numpy", "Pillow"))
    trainers = {**versions_of(("torch", "torchvision", "scikit-learn")), "device": device.type}
    tools = versions_of(("torch", "onnx", "onnxscript", "onnxruntime"))
    engines = versions_of(("onnx", engine))
    check = Stage.of("check", ("data", "runtime/preprocess"), dataset.digest, readers)
    view = Stage.of(
        "view", ("records", "metrics", "bundle", "data", "runtime", "backbones", "finetune", *LINE), check, trainers,
        settings.backbone, weights.record.identity, settings.image_size, settings.fit, settings.seed, settings.skip_bad,
    )  # fmt: skip
    frozen = Stage.of("frozen", (), view)
    tuned = Stage.of("tuned", (), frozen, settings.epochs, settings.lr)
    exported = Stage.of("exported", ("export", "compile"), tuned, tools)
    quantized = None
    if "int8" in target.engine.precisions:
        quantized = Stage.of("quantized", ("quantize",), exported, recipe.model_dump())
    compiled = Stage.of("compiled", (), exported, quantized, target.engine.model_dump(), engines)
    machine = describe_machine().model_dump(exclude={"load_1min"})
    judged = Stage.of("judged", ("bench", "quantize"), compiled, target.model_dump(), machine)
    bundle = Stage.of("bundle", ("pipeline",), judged, settings.golden)
    return Plan(
        settings=settings, target=target, recipe=recipe, dataset=dataset, weights=weights, device=device, check=check,
        view=view, frozen=frozen, tuned=tuned, exported=exported, quantized=quantized, compiled=compiled,
        judged=judged, bundle=bundle,
    )  # fmt: skip
