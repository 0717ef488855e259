"""The server on the device: photos in over HTTP, labels out."""

from edgetl.serve.run import serve
from edgetl.serve.settings import ServeSettings, read_settings
from edgetl.serve.systemd import write_unit

__all__ = ["ServeSettings", "read_settings", "serve", "write_unit"]
