"""Keeps what a benchmark measured: raw samples, machine, versions, date."""

from __future__ import annotations

import datetime
import json
import os
import statistics
from pathlib import Path
from typing import Any

from edgetl.bench import describe_machine

__all__ = ["assets", "save_result", "spread"]

RESULTS = Path(__file__).parent / "results"


def assets() -> Path:
    """Return the folder of real photos and weights: EDGETL_ASSETS, or ../shared beside the checkout."""
    return Path(os.environ.get("EDGETL_ASSETS", Path(__file__).parents[2] / "shared"))


def save_result(name: str, figures: dict[str, Any]) -> None:
    """Write the figures to benchmarks/results and print them without their raw samples."""
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": describe_machine().model_dump(mode="json"),
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if key != "samples"}, indent=2))


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
