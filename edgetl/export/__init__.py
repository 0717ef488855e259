"""From the trained module to the core ONNX graph, and the proof that it computes the same."""

from edgetl.export.graph import EXPORTERS, CoreGraph, export_graph
from edgetl.export.parity import check_parity, measure_parity

__all__ = ["EXPORTERS", "CoreGraph", "check_parity", "export_graph", "measure_parity"]
