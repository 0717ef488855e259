"""A bundle: a folder that explains itself, written whole or not at all."""

from edgetl.bundle.atomic import atomic_folder, write_file
from edgetl.bundle.manifest import (
    Accuracies,
    Artifact,
    Expected,
    Golden,
    Manifest,
    Parity,
    Rung,
    Weights,
)
from edgetl.bundle.store import Bundle, check_output, sha256_of, write_bundle

__all__ = [
    "Accuracies",
    "Artifact",
    "Bundle",
    "Expected",
    "Golden",
    "Manifest",
    "Parity",
    "Rung",
    "Weights",
    "atomic_folder",
    "check_output",
    "sha256_of",
    "write_bundle",
    "write_file",
]
