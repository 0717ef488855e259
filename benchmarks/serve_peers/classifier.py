"""What every peer of `serve_vs_peers.py` calls: a photo in, its five best labels out.

It resizes and crops as torchvision's examples do, and runs the same graph as edgetl on ONNX Runtime with one thread a
session. Each peer is written as its own documentation writes an image classifier, and runs in an environment of its own
where it needs one.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

MODEL, LABELS = os.environ["PEER_MODEL"], os.environ["PEER_LABELS"]
WORKERS = 2


class Classifier:
    """The network of the environment's PEER_MODEL and PEER_LABELS."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        image = self.session.get_inputs()[0]
        self.name, (_, self.height, self.width, _) = image.name, image.shape
        self.labels = Path(LABELS).read_text().splitlines()

    def read(self, content: bytes) -> dict[str, Any]:
        """Answer an encoded photo."""
        with Image.open(io.BytesIO(content)) as opened:
            return self(opened)

    def __call__(self, opened: Image.Image) -> dict[str, Any]:
        """Answer a photo."""
        image = opened.convert("RGB")
        scale = max(self.width / image.width, self.height / image.height)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        image = image.crop((left, top, left + self.width, top + self.height))
        (logits,) = self.session.run(None, {self.name: np.asarray(image)[None]})
        raised = np.exp(logits[0] - logits[0].max())
        scores = raised / raised.sum()
        best = np.argsort(-scores)[:5]
        return {"predictions": [{"label": self.labels[place], "score": float(scores[place])} for place in best]}
