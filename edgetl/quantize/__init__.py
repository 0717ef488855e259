"""INT8 and FP16: which images calibrate, how the graph is quantized, and whether it pays."""

from edgetl.quantize.by_engine import quantize_for
from edgetl.quantize.decide import Candidate, Verdict, allowed_drop, decide
from edgetl.quantize.ranges import Ranges, calibrate
from edgetl.quantize.select import select_items

__all__ = [
    "Candidate",
    "Ranges",
    "Verdict",
    "allowed_drop",
    "calibrate",
    "decide",
    "quantize_for",
    "select_items",
]
