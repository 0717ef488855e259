"""FastAPI alone: a plain function, which it runs in its thread pool."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from classifier import Classifier
from fastapi import FastAPI, File

app, classifier = FastAPI(), Classifier()


@app.post("/predict")
def predict(file: bytes = File()) -> dict[str, Any]:
    """Answer the photo of a form."""
    return classifier.read(file)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
