"""The server on the device: photos in over HTTP, labels out."""

from edgetl.serve.run import serve
from edgetl.serve.settings import ServeSettings, read_settings
from edgetl.serve.systemd import write_unit
from edgetl.serve.tune import Trial, Tuned, find_tuning
from edgetl.serve.tuning import Tuning

__all__ = ["ServeSettings", "Trial", "Tuned", "Tuning", "find_tuning", "read_settings", "serve", "write_unit"]
