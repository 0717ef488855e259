"""What a bundle says about itself: the records in `manifest.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgetl.records import Execution, Precision, Preprocess, Record, TensorSpec

__all__ = ["SCHEMA", "Accuracies", "Artifact", "Expected", "FileEntry", "Golden", "Manifest", "Parity", "Weights"]

SCHEMA = 1


class FileEntry(Record):
    """One file of the bundle; every file but the manifest has one."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class Artifact(Record):
    """The model file that the engine runs, and the tensors at its border."""

    path: str
    weights: str | None = Field(default=None, description="where the engine keeps them apart from the graph")
    engine: str
    precision: Precision
    execution: Execution = Execution()
    input: TensorSpec
    output: TensorSpec

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its files."""
        return (self.path,) if self.weights is None else (self.path, self.weights)


class Expected(Record):
    """What an artifact answers to the golden images."""

    logits: str
    tolerance: float = Field(gt=0, description="largest difference of a logit")


class Golden(Record):
    """What `edgetl verify` replays: real images, the tensors they become, and the logits expected of each artifact."""

    images: tuple[str, ...]
    inputs: str
    pixel_tolerance: int = Field(ge=0, le=255, description="largest difference of a pixel: decoders differ by a little")
    expected: dict[str, Expected] = Field(description="by the artifact's path")


class Accuracies(Record):
    """Shares of right answers in [0, 1] on images that edgetl chose nothing by."""

    split: Literal["val", "test"]
    images: int
    frozen: float | None = Field(description="after the frozen stage alone; None for what was trained elsewhere")
    float_: float = Field(alias="float")
    shipped: float

    @property
    def images_in_words(self) -> str:
        """Which images these are, and who may have seen them."""
        unseen = "that nothing was chosen by"
        if self.frozen is None:
            unseen = "that edgetl chose nothing by; whether the network was trained on them is not known here"
        return f"{self.images} {self.split} photos {unseen}"


class Parity(Record):
    """How far an artifact's logits are from those of what it was made from, on real images.

    Errors are shares of the largest logit; `cosine` is that of the image whose logits point away most. `near_ties`
    images have another top-1 between classes too close to call, and count as agreement.
    """

    max_relative_error: float
    mean_relative_error: float
    cosine: float
    top1_agreement: float
    near_ties: int
    images: int


class Rung(Record):
    """A step of the ladder from the trained network to what a device runs: what answered, what its answers were held
    against, and how far they are from these.

    `core` is the graph as exported, `faced` the same reading bytes, both on ONNX Runtime; `quantized` is a graph below
    float32 as ONNX defines it; `artifact` what the target's engine makes of the graph.
    """

    name: Literal["core", "faced", "quantized", "artifact"]
    answered_by: str
    against: str
    parity: Parity


class Weights(Record):
    """Where the backbone's weights come from, and under which licence."""

    source: str
    identity: str = Field(description="sha256 of the file, or the address that names its hash")
    licence: str


class Manifest(Record):
    """Everything a runtime needs to know, and everything a reader should."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str
    task: Literal["classification"]
    labels: tuple[str, ...] = Field(min_length=2)
    preprocess: Preprocess
    artifacts: tuple[Artifact, ...] = Field(min_length=1, description="in the order in which a device tries them")
    golden: Golden | None
    backbone: str
    weights: Weights
    target: str
    seed: int
    build: str = Field(description="hash of all that the bundle was made from")
    accuracy: Accuracies
    ladder: tuple[Rung, ...]
    toolchain: dict[str, str]
    files: dict[str, FileEntry]

    @property
    def artifact(self) -> Artifact:
        """The artifact that the device is to run; those after it stand in where it cannot be."""
        return self.artifacts[0]
