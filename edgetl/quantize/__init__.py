"""INT8 and FP16: which images calibrate, how the graph is quantized, and whether it pays."""

from edgetl.quantize.by_engine import quantize_for
from edgetl.quantize.decide import Candidate, Verdict, decide, is_inside
from edgetl.quantize.ranges import Ranges, calibrate
from edgetl.quantize.select import remarks_on, select_items

__all__ = [
    "Candidate",
    "Ranges",
    "Verdict",
    "calibrate",
    "decide",
    "is_inside",
    "quantize_for",
    "remarks_on",
    "select_items",
]
