"""Open an OpenVINO bundle with OpenVINO Model API and no edgetl, and compare its labels with edgetl's on photos.

    python benchmarks/model_api.py BUNDLE PHOTOS [--python PYTHON] [--count 50]

PYTHON is an interpreter with `openvino_model_api` and `opencv-python-headless`; it never sees edgetl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from recording import save_result

from edgetl import Predictor

# What a user of Model API writes; photos as OpenCV reads them.
SCRIPT = """
import json, sys
import cv2
from model_api.models import ClassificationModel
assert "edgetl" not in sys.modules
model = ClassificationModel.create_model(sys.argv[1], device="CPU")
for photo in sys.stdin.read().splitlines():
    top = model(cv2.imread(photo)).top_labels[0]
    print(json.dumps([top.name, float(top.confidence)]))
"""
SUFFIXES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--count", type=int, default=50)
    options = parser.parse_args()
    found = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    photos = found[:: max(1, len(found) // options.count)][: options.count]
    ran = subprocess.run(
        [options.python, "-c", SCRIPT, str(options.bundle.resolve() / "model.xml")],
        input="\n".join(str(path.resolve()) for path in photos), capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    theirs = [json.loads(line) for line in ran.stdout.splitlines()]
    with Predictor.open(options.bundle) as predictor:
        precision = predictor.session.artifact.precision
        ours = [predictor.predict(path) for path in photos]
    # Model API splits labels at white space, so there they have none.
    pairs = [("_".join(answer.label.split()), label) for answer, (label, _) in zip(ours, theirs, strict=True)]
    save_result(
        "model_api",
        {
            "precision": precision,
            "photos": len(photos),
            "same_label": sum(mine == their for mine, their in pairs),
            "largest_difference_of_the_best_score": max(
                abs(answer.score - score) for answer, (_, score) in zip(ours, theirs, strict=True)
            ),
            "samples": [
                {"photo": path.name, "edgetl": [mine, answer.score], "model_api": [their, score]}
                for path, (mine, their), answer, (_, score) in zip(photos, pairs, ours, theirs, strict=True)
            ],
        },
    )


if __name__ == "__main__":
    main()
