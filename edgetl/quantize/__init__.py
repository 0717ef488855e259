"""INT8: which images calibrate, how the graph is quantized, and whether it pays."""

from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.quantize.decide import Candidate, Verdict, allowed_drop, decide
from edgetl.quantize.select import select_items

__all__ = ["Candidate", "Verdict", "allowed_drop", "decide", "quantize_graph", "select_items"]
