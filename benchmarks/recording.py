"""Keeps what a benchmark measured: raw samples, machine, versions, date."""

from __future__ import annotations

import datetime
import json
import os
import statistics
from pathlib import Path
from typing import Any

from edgetl.bench import describe_machine

__all__ = ["assets", "recorded", "save_ratios", "save_result", "spread"]

RESULTS = Path(__file__).parent / "results"


def assets() -> Path:
    """Return the folder of real photos and weights: EDGETL_ASSETS, or ../shared beside the checkout."""
    return Path(os.environ.get("EDGETL_ASSETS", Path(__file__).parents[2] / "shared"))


def recorded(name: str) -> dict[str, Any]:
    """Return what a benchmark wrote last; nothing where it never ran."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save_result(name: str, figures: dict[str, Any], shown: bool = True) -> None:
    """Write the figures to benchmarks/results and, where they are to be shown, print them without their raw samples."""
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": describe_machine().model_dump(mode="json"),
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    if shown:
        print(json.dumps({key: value for key, value in figures.items() if key != "samples"}, indent=2))


def save_ratios(
    name: str, ratios: dict[str, list[float]], pairs_ms: dict[str, list[tuple[float, float]]], **figures: Any
) -> None:
    """Write what pairs of sessions took: the ratio of each pair's medians, and every sample in milliseconds."""
    save_result(
        name,
        {
            **figures,
            "ratios_of_p50": {key: spread(each) for key, each in ratios.items()},
            "p50_ms": {
                key: [statistics.median(one) for one in zip(*each, strict=True)] for key, each in pairs_ms.items()
            },
            "samples": {"ratios_of_p50": ratios, "pairs_ms": pairs_ms},
        },
    )


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
