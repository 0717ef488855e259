"""Tests of edgetl/pipeline/steps.py: what the walk along the whole line does not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from edgetl.bundle import Bundle
from edgetl.outcomes import Statistics
from edgetl.pipeline import BuildSettings, make_plan, steps
from edgetl.pipeline.plan import CORE
from edgetl.pipeline.results import Calibrated
from edgetl.records import Quiet


class TestCalibrated:
    """The step that finds ranges, and may equalize channels."""

    def test_the_graph_that_is_to_be_quantized_is_kept(
        self, built: Bundle, settings: BuildSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def mark(model: onnx.ModelProto, read: Any, *others: Any) -> tuple[onnx.ModelProto, Statistics]:
            for what in ("once", "and again"):
                assert sum(len(images) for images in read(what)) == len(plan.calibration_photos)
            model.doc_string = "equalized"
            return model, Statistics(ranges={"image": (0.0, 0.5)}, means={})

        plan = make_plan(settings, Quiet())
        monkeypatch.setattr(steps, "calibrate_equalized", mark)
        steps.calibrated(plan, Quiet(), tmp_path)
        assert onnx.load(tmp_path / CORE).doc_string == "equalized"
        found = Calibrated.model_validate_json((tmp_path / "calibrated.json").read_bytes())
        assert found.statistics.ranges == {"image": (0.0, 0.5)}

    def test_a_recipe_may_leave_channels_as_they_are(
        self, built: Bundle, settings: BuildSettings, tmp_path: Path
    ) -> None:
        plan = make_plan(settings, Quiet())
        plain = plan.vary(plan.recipe.model_copy(update={"equalize": False}))
        steps.calibrated(plain, Quiet(), tmp_path)
        assert not (tmp_path / CORE).exists()
        assert plain.lower_core == plan.trained_core != plan.lower_core
