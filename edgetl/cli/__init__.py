"""The command line: a verb parses, calls one function, prints."""

from edgetl.cli.app import app, main

__all__ = ["app", "main"]
