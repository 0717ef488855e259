"""From the trained module to the core ONNX graph, and the ladder that proves what computes the same."""

from edgetl.export.core import CoreSession
from edgetl.export.graph import EXPORTERS, CoreGraph, export_graph
from edgetl.export.layers import find_parted_layer, find_parted_module
from edgetl.export.parity import MAX_RELATIVE_ERROR, check_engine, check_rung, measure_parity

__all__ = [
    "EXPORTERS",
    "MAX_RELATIVE_ERROR",
    "CoreGraph",
    "CoreSession",
    "check_engine",
    "check_rung",
    "export_graph",
    "find_parted_layer",
    "find_parted_module",
    "measure_parity",
]
