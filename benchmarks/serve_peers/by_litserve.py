"""LitServe's image classifier, with two workers."""

from __future__ import annotations

import sys
from typing import Any

import litserve
from classifier import WORKERS, Classifier


class Api(litserve.LitAPI):
    """Answers the photo of a form."""

    def setup(self, device: str) -> None:
        """Open the network in a worker."""
        self.classifier = Classifier()

    def decode_request(self, request):  # no types: LitServe would take them for what the request holds
        """Return the photo of a form."""
        return request["file"].file.read()

    def predict(self, photo: bytes) -> dict[str, Any]:
        """Return its labels."""
        return self.classifier.read(photo)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return what is sent."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning")
