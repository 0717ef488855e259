"""The line from a folder of photos to a bundle, stage by stage, each kept under the hash of what went in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetl.pipeline.line import build, build_each
from edgetl.pipeline.results import BuildReport, Summary
from edgetl.pipeline.settings import BuildSettings, read_builds, read_settings

if TYPE_CHECKING:
    from edgetl.pipeline.plan import Plan
    from edgetl.pipeline.prepare import make_plan, make_plans, plans_of
    from edgetl.pipeline.together import lead
    from edgetl.pipeline.walking import walk

__all__ = [
    "BuildReport",
    "BuildSettings",
    "Plan",
    "Summary",
    "build",
    "build_each",
    "lead",
    "make_plan",
    "make_plans",
    "plans_of",
    "read_builds",
    "read_settings",
    "walk",
]

# Name -> module. Imported on first use, for what works imports libraries that take seconds, and a bundle that is up to
# date needs none of it.
_LATE = {
    "Plan": "edgetl.pipeline.plan",
    "lead": "edgetl.pipeline.together",
    "make_plan": "edgetl.pipeline.prepare",
    "make_plans": "edgetl.pipeline.prepare",
    "plans_of": "edgetl.pipeline.prepare",
    "walk": "edgetl.pipeline.walking",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'edgetl.pipeline' has no attribute {name!r}")
    from importlib import import_module

    from edgetl.errors import missing_library

    try:
        return getattr(import_module(_LATE[name]), name)
    except ModuleNotFoundError as error:
        raise missing_library(str(error.name), "train", "build") from None
