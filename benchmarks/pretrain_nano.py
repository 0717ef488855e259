"""Pretrain the embedded backbone `edgetl/nano` on CIFAR-10 and publish its weights and card.

    python benchmarks/pretrain_nano.py train   --checkpoint nano.pt    # about 45 minutes on 2 cores; resumes
    python benchmarks/pretrain_nano.py publish --checkpoint nano.pt    # test once, write weights and card

The recipe is fixed beforehand; the test images are looked at once, by `publish`, with the float16
weights that ship and the preprocessing that the device uses.
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WEIGHTS = Path(__file__).parents[1] / "edgetl" / "backbones" / "weights"
RESULT = Path(__file__).parent / "results" / "pretrain_nano.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How nano is pretrained: SGD with Nesterov momentum, one learning-rate cycle, growing images."""

    # (image side in pixels, epochs): small images first, since early epochs need no detail.
    stages: tuple[tuple[int, int], ...] = ((48, 9), (64, 6), (96, 6))
    batch: int = 128
    peak_lr: float = 0.2
    warm_up: float = 0.2  # share of all steps
    weight_decay: float = 3e-4
    momentum: float = 0.9
    label_smoothing: float = 0.05
    shift_pixels: int = 4  # random translation of the 32x32 picture, by reflection
    mean: tuple[int, int, int] = (125, 123, 114)  # of 255
    std: tuple[int, int, int] = (63, 62, 67)
    seed: int = 0


def read_split(source: Path | None, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CIFAR-10 pictures as uint8 (count, 3, 32, 32) and their labels as int64 (count,)."""
    if source is None:
        from torchvision.datasets import CIFAR10

        cifar = CIFAR10(Path.home() / ".cache" / "edgetl", train=split == "train", download=True)
        pixels, labels = cifar.data, cifar.targets
    else:
        with zipfile.ZipFile(source) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and n.endswith(".jpg"))
            labels = [CLASSES.index(name.split("/")[1]) for name in names]
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def augmented(pixels: torch.Tensor, side: int, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Return randomly flipped and shifted pictures, normalised, float32 (batch, 3, side, side)."""
    batch, shift = len(pixels), recipe.shift_pixels
    padded = F.pad(pixels.float(), [shift] * 4, mode="reflect")
    corner = torch.randint(0, 2 * shift + 1, (2, batch, 1, 1), generator=generator)
    rows = corner[0] + torch.arange(32).view(1, 32, 1)
    columns = corner[1] + torch.arange(32).view(1, 1, 32)
    flipped = torch.rand(batch, 1, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(2), columns)
    moved = padded[torch.arange(batch).view(batch, 1, 1), :, rows, columns].permute(0, 3, 1, 2)
    large = F.interpolate(moved, size=(side, side), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (recipe.mean, recipe.std))
    return ((large - mean) / std).contiguous(memory_format=torch.channels_last)


def sides(recipe: Recipe) -> Iterator[int]:
    """Yield the image side of every epoch in turn."""
    for side, epochs in recipe.stages:
        for _ in range(epochs):
            yield side


def nano(num_classes: int = len(CLASSES)) -> nn.Module:
    """Return the untrained network."""
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(width_mult=0.35, dropout=0.0, num_classes=num_classes).to(memory_format=torch.channels_last)


def train(source: Path | None, checkpoint: Path, recipe: Recipe, device: torch.device) -> None:
    """Train for the whole recipe, keeping the state after every epoch; resume where a checkpoint stands."""
    torch.manual_seed(recipe.seed)
    pixels, labels = read_split(source, "train")
    model = nano().to(device)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.peak_lr, momentum=recipe.momentum, nesterov=True,
    )  # fmt: skip
    epochs = list(sides(recipe))
    steps = len(pixels) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.peak_lr, total_steps=steps * len(epochs), pct_start=recipe.warm_up,
        anneal_strategy="linear", cycle_momentum=False, div_factor=20, final_div_factor=1000,
    )  # fmt: skip
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, seconds = state["epochs_done"], state["seconds"]
    for epoch in range(first, len(epochs)):
        generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
        order = torch.randperm(len(pixels), generator=generator)[: steps * recipe.batch]
        started, total, hits = time.perf_counter(), 0.0, 0
        for chosen in order.split(recipe.batch):
            images = augmented(pixels[chosen], epochs[epoch], recipe, generator).to(device)
            wanted = labels[chosen].to(device)
            with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(images)
            loss = F.cross_entropy(logits.float(), wanted, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            hits += int((logits.argmax(1) == wanted).sum())
        seconds += time.perf_counter() - started
        print(
            f"epoch {epoch + 1}/{len(epochs)} side {epochs[epoch]} loss {total / steps:.3f} "
            f"train accuracy {hits / len(order):.4f} {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        fresh = checkpoint.with_suffix(".new")
        torch.save(
            {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                "epochs_done": epoch + 1, "seconds": seconds,
            },
            fresh,
        )  # fmt: skip
        fresh.replace(checkpoint)


def publish(source: Path | None, checkpoint: Path, recipe: Recipe) -> None:
    """Test the float16 weights once on CIFAR-10's test pictures, and write weights, card and result."""
    from recording import save_result
    from safetensors.torch import save

    from edgetl.backbones import choose_weights, load_backbone
    from edgetl.finetune.device import as_input
    from edgetl.runtime import fit_photo

    state = torch.load(checkpoint, weights_only=True)
    if state["epochs_done"] != sum(epochs for _, epochs in recipe.stages):
        raise SystemExit(f"{checkpoint}: {state['epochs_done']} epochs are done. Run `train` to its end first")
    half = {name: t.half() if t.is_floating_point() else t for name, t in state["model"].items()}
    WEIGHTS.mkdir(exist_ok=True)
    (WEIGHTS / "nano.safetensors").write_bytes(save({k: t.contiguous() for k, t in half.items()}))
    backbone = load_backbone("edgetl/nano", choose_weights("edgetl/nano", None, seed=0))
    head = nn.Linear(backbone.features, len(CLASSES))
    head.load_state_dict({key: half[f"classifier.1.{key}"].float() for key in ("weight", "bias")})
    pixels, labels = read_split(source, "test")
    photos = [Image.fromarray(one) for one in pixels.permute(0, 2, 3, 1).numpy()]
    hits = 0
    with torch.inference_mode():
        for start in range(0, len(photos), 100):
            images = np.stack([fit_photo(photo, backbone.preprocess) for photo in photos[start : start + 100]])
            logits = head(backbone.module(as_input(images, backbone.preprocess, torch.device("cpu"))))
            hits += int((logits.argmax(1) == labels[start : start + 100]).sum())
    accuracy = hits / len(photos)
    size = (WEIGHTS / "nano.safetensors").stat().st_size
    (WEIGHTS / "README.md").write_text(card(recipe, accuracy, size))
    save_result(
        "pretrain_nano",
        {
            "test_accuracy": accuracy, "test_images": len(photos), "size_bytes": size,
            "train_seconds": state["seconds"], "recipe": asdict(recipe),
        },
    )  # fmt: skip


def card(recipe: Recipe, accuracy: float, size_bytes: int) -> str:
    """Return the card of the weights: data, recipe, accuracy, limits."""
    stages = ", then ".join(f"{epochs} epochs at {side}x{side}" for side, epochs in recipe.stages)
    return f"""# edgetl/nano

The backbone that comes with edgetl: torchvision's `mobilenet_v2` of width 0.35, for photos of 96x96, as float16
safetensors ({size_bytes:,} bytes). Written by `benchmarks/pretrain_nano.py`; not edited by hand.

| | |
|---|---|
| Data | CIFAR-10's 50,000 training pictures (A. Krizhevsky, 2009), enlarged from 32x32 |
| Accuracy | {100 * accuracy:.2f} % on CIFAR-10's 10,000 test pictures, with these float16 weights; looked at once |
| Recipe | {stages}; SGD with Nesterov momentum {recipe.momentum}, batch {recipe.batch}, one cycle of the |
| | learning rate up to {recipe.peak_lr} and linearly to zero, weight decay {recipe.weight_decay} on matrices, |
| | label smoothing {recipe.label_smoothing}, mirroring and shifts of {recipe.shift_pixels} pixels, seed {recipe.seed} |
| Pixels | mean {recipe.mean} and std {recipe.std}, of 255 |
| Licence | Apache-2.0 |

Ten classes of tiny pictures are a narrow schooling: nano starts quickly and needs no download, but a backbone that has
seen ImageNet (`--backbone torchvision/...`) knows far more about photos.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("train", "publish"))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cifar", type=Path, help="zip of train|test/<class>/*.jpg; default: torchvision's download")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.verb == "train":
        train(options.cifar, options.checkpoint, Recipe(), torch.device(options.device))
    else:
        publish(options.cifar, options.checkpoint, Recipe())


if __name__ == "__main__":
    main()
