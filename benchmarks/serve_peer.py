"""Serve a bundle's INT8 network as another server's documentation writes an image classifier.

    python benchmarks/serve_peer.py fastapi|litserve|bentoml MODEL.onnx LABELS.txt PORT

Run by `serve_vs_peers.py`, in an environment of the peer's where it needs one. Every peer resizes and crops as
torchvision's examples do, and runs the same graph on ONNX Runtime with one thread a session.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

WORKERS = 2


class Classifier:
    """What each peer calls: a photo's bytes in, the five best labels out."""

    def __init__(self, model: str, labels: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        image = self.session.get_inputs()[0]
        self.name, (_, self.height, self.width, _) = image.name, image.shape
        self.labels = Path(labels).read_text().splitlines()

    def __call__(self, photo: bytes) -> dict[str, Any]:
        with Image.open(io.BytesIO(photo)) as opened:
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


def by_fastapi(model: str, labels: str, port: int) -> None:
    """A plain function, which FastAPI runs in its thread pool."""
    import uvicorn
    from fastapi import FastAPI, File

    app, classifier = FastAPI(), Classifier(model, labels)

    @app.post("/predict")
    def predict(file: bytes = File()) -> dict[str, Any]:
        return classifier(file)

    uvicorn.run(app, port=port, log_level="warning")


def by_litserve(model: str, labels: str, port: int) -> None:
    """LitServe's image classifier: two workers."""
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:
            self.classifier = Classifier(model, labels)

        def decode_request(self, request: Any) -> bytes:
            return request["file"].file.read()

        def predict(self, photo: bytes) -> dict[str, Any]:
            return self.classifier(photo)

        def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
            return output

    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="warning")


PEERS = {"fastapi": by_fastapi, "litserve": by_litserve}

if __name__ == "__main__":
    name, model, labels, port = sys.argv[1:]
    PEERS[name](model, labels, int(port))
