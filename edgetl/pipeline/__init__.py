"""The line from a folder of photos to a bundle, stage by stage, each kept under the hash of what went in."""

from edgetl.pipeline.line import build, build_each
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.prepare import make_plan, make_plans
from edgetl.pipeline.results import BuildReport, Summary
from edgetl.pipeline.settings import BuildSettings, read_builds, read_settings

__all__ = [
    "BuildReport",
    "BuildSettings",
    "Plan",
    "Summary",
    "build",
    "build_each",
    "make_plan",
    "make_plans",
    "read_builds",
    "read_settings",
]
