"""Tests of edgetl/pipeline/steps.py: what the walk along the whole line does not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from edgetl.bundle import Bundle
from edgetl.pipeline import BuildSettings, make_plan, steps
from edgetl.pipeline.plan import CORE
from edgetl.records import Quiet


class TestCalibrated:
    """Channels are equalized where INT8 leaves more signal then."""

    @pytest.mark.parametrize(
        ("before", "after", "kept"), [(22.1, 26.2, True), (33.3, 32.3, False), (30.0, 30.0, False)]
    )
    def test_the_better_graph_is_quantized(
        self, before: float, after: float, kept: bool, built: Bundle, settings: BuildSettings, lines: Any,
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        def mark(model: onnx.ModelProto, batches: Any) -> onnx.ModelProto:
            assert sum(len(images) for images in batches) == len(plan.calibration_photos)
            marked = onnx.ModelProto.FromString(model.SerializeToString())
            marked.doc_string = "equalized"
            return marked

        plan, signals = make_plan(settings, Quiet()), iter([before, after])
        monkeypatch.setattr(steps, "equalize_channels", mark)
        monkeypatch.setattr(steps, "measure_signal", lambda *given: next(signals))
        steps.calibrated(plan, lines, tmp_path)
        assert (onnx.load(tmp_path / CORE).doc_string == "equalized") is kept
        assert f"signal that INT8 leaves: {before:.1f} dB, {after:.1f} dB with channels equalized" in lines.said

    def test_a_recipe_may_leave_channels_as_they_are(
        self, built: Bundle, settings: BuildSettings, tmp_path: Path
    ) -> None:
        plan = make_plan(settings, Quiet())
        plain = plan.vary(plan.recipe.model_copy(update={"equalize": False}))
        steps.calibrated(plain, Quiet(), tmp_path)
        assert not (tmp_path / CORE).exists()
        assert plain.lower_core == plan.trained_core != plan.lower_core
