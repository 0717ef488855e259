"""INT8 and FP16: which images calibrate, how the graph is quantized, and whether it pays."""

from edgetl.quantize.by_engine import always_float, quantize_for
from edgetl.quantize.decide import Candidate, can_tell, decide, is_inside
from edgetl.quantize.equalize import calibrate_equalized, equalize_channels
from edgetl.quantize.ranges import calibrate
from edgetl.quantize.select import remarks_on, select_items
from edgetl.quantize.sensitivity import measure_signal, rank_layers

__all__ = [
    "Candidate",
    "always_float",
    "calibrate",
    "calibrate_equalized",
    "can_tell",
    "decide",
    "equalize_channels",
    "is_inside",
    "measure_signal",
    "quantize_for",
    "rank_layers",
    "remarks_on",
    "select_items",
]
