"""From the trained module to the core ONNX graph, and the ladder that proves what computes the same."""

from edgetl.export.adopt import WAYS, adopt_graph
from edgetl.export.border import CoreGraph
from edgetl.export.core import CoreSession
from edgetl.export.foreign import ForeignGraph, read_foreign
from edgetl.export.graph import EXPORTERS, export_graph
from edgetl.export.input_spec import InputSpec
from edgetl.export.layers import find_parted_layer, find_parted_module
from edgetl.export.parity import MAX_RELATIVE_ERROR, check_engine, check_rung, measure_parity

__all__ = [
    "EXPORTERS",
    "MAX_RELATIVE_ERROR",
    "WAYS",
    "CoreGraph",
    "CoreSession",
    "ForeignGraph",
    "InputSpec",
    "adopt_graph",
    "check_engine",
    "check_rung",
    "export_graph",
    "find_parted_layer",
    "find_parted_module",
    "measure_parity",
    "read_foreign",
]
