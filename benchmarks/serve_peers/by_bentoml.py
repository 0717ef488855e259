"""BentoML's image classifier, with two workers."""

import os
import sys
from pathlib import Path
from typing import Any

import bentoml
from classifier import WORKERS, Classifier
from PIL.Image import Image


@bentoml.service(workers=WORKERS)
class Service:
    """Answers the photo of a form."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api
    def predict(self, file: Image) -> dict[str, Any]:
        """Return its labels."""
        return self.classifier(file)


if __name__ == "__main__":
    here = str(Path(__file__).parent)
    command = ["serve", "by_bentoml:Service", "--working-dir", here, "--host", "127.0.0.1", "--port", sys.argv[1]]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command])
