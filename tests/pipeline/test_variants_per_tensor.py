"""Tests of edgetl/pipeline/variants.py: one scale for each weight, where INT8 pays."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
import pytest

from edgetl.bench import summarise
from edgetl.pipeline import BuildReport, BuildSettings, Plan, build, measure, variants
from edgetl.pipeline.results import Judged
from edgetl.records import Quiet, SpeedUp
from edgetl.target import load_target


class TestPerTensor:
    """One scale for each weight, which may be faster."""

    @pytest.fixture(autouse=True)
    def _judge(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        """Judge that INT8 pays, and does not where it must be faster than a rival."""
        first = plan.judged.read("judged", Judged)
        speed_up = SpeedUp(ratio=2.0, low=1.9, high=2.1)
        drop = first.verdict.drop.model_copy(update={"images": 1000})
        pays = first.verdict.model_copy(update={"precision": "int8", "outside": (), "speed_up": speed_up, "drop": drop})
        self.verdicts = {False: pays, True: pays.model_copy(update={"precision": "fp32"})}
        monkeypatch.setattr(variants, "READS_SCALES", "onnxruntime")
        monkeypatch.setattr(
            variants, "judged_of",
            lambda each: first.model_copy(update={"verdict": self.verdicts[each.rival is not None]}),
        )  # fmt: skip

    def test_it_is_tried_where_int8_pays_and_shares_all_but_the_rounding(self, plan: Plan) -> None:
        first, second = variants.variants(plan, Quiet())
        assert (second.rival, second.way.per_tensor, second.way.recipe) == (first, True, "minmax")
        assert second.calibrated == first.calibrated
        assert (second.recipe.per_channel, second.rounding.per_channel) == (True, False)
        assert second.quantized != first.quantized
        assert second.judged != first.judged

    def test_it_ships_only_where_it_is_faster(self, plan: Plan) -> None:
        tried = list(variants.variants(plan, Quiet()))
        assert variants.choose(tried) is tried[0]
        self.verdicts[True] = self.verdicts[False]
        assert variants.choose(tried) is tried[1]

    def test_it_is_not_tried_where_photos_are_too_few_to_tell_what_it_costs(self, plan: Plan) -> None:
        pays = self.verdicts[False]
        for images, tried in ((199, 1), (200, 2)):
            self.verdicts[False] = pays.model_copy(update={"drop": pays.drop.model_copy(update={"images": images})})
            assert len(list(variants.variants(plan, Quiet()))) == tried

    def test_another_precision_that_would_ship_then_does_not(self, plan: Plan) -> None:
        tried = list(variants.variants(plan, Quiet()))
        self.verdicts[True] = self.verdicts[True].model_copy(update={"precision": "bf16"})
        assert variants.choose(tried) is tried[0]

    @pytest.mark.parametrize(
        ("engine", "recipe", "speed_up", "precisions"),
        [
            ("openvino", {}, ..., ("int8", "fp32")),
            ("onnxruntime", {"method": "nncf"}, ..., ("int8", "fp32")),
            ("onnxruntime", {"per_channel": False}, ..., ("int8", "fp32")),
            ("onnxruntime", {}, None, ("int8", "fp32")),
            ("onnxruntime", {}, ..., ("int8",)),
            ("onnxruntime", {}, ..., ("int8", "fp16")),
        ],
        ids=["another engine", "placed by NNCF", "coarse already", "not timed", "forced", "no float"],
    )
    def test_it_is_not_tried_where_it_cannot_help_or_tell(
        self, engine: str, recipe: dict[str, Any], speed_up: Any, precisions: tuple[str, ...], plan: Plan,
        write_target: Callable[..., str], asking: Callable[..., Plan],
    ) -> None:  # fmt: skip
        if speed_up is None:
            self.verdicts[False] = self.verdicts[False].model_copy(update={"speed_up": None})
        target = load_target(write_target(engine=engine, precisions=precisions))
        asked = replace(asking(plan, target=target), recipe=plan.recipe.model_copy(update=recipe))
        seen = variants.variants(asked, Quiet())
        assert len(list(seen)) == 1


@pytest.mark.parametrize("wins", [True, False])
def test_one_scale_for_each_weight_is_timed_beside_what_pays_already_and_reported(
    wins: bool, settings: BuildSettings, write_target: Callable[..., str], lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[str, ...]] = []

    def latencies(calls: Any, rounds: int, per_round: int) -> Any:
        timed.append(tuple(calls))
        ms = {"fp32": 4.0, "int8": 1.0 if wins and "rival" in calls else 2.0, "rival": 2.0}
        return {name: summarise([ms[name]] * per_round * rounds) for name in calls}

    monkeypatch.setattr(measure, "interleave", latencies)
    monkeypatch.setattr(variants, "READS_SCALES", "onnxruntime")
    wide = settings.model_copy(update={"target": write_target(accuracy_drop_points=90 + wins)})
    bundle = build(wide, lines)
    assert set(timed) == {("fp32", "int8"), ("fp32", "int8", "rival")}
    report = BuildReport.model_validate_json(bundle.read("report.json"))
    assert report.way == report.tried[wins].way
    assert any(line.endswith("Next: recipe minmax, one scale for each weight") for line in lines.said)
    build(wide, lines)
    assert lines.said[-1].endswith("is up to date")
    card = bundle.read("README.md").decode()
    assert ("Each weight has one scale, which is faster here" in card) == wins
    ahead = "4.00x (4.00 to 4.00) faster (2.00x (2.00 to 2.00) the speed of what could ship before)"
    behind = "INT8 so quantized is not faster beyond the noise of timing: 1.00x (1.00 to 1.00) the speed of what could"
    assert (ahead if wins else behind) in report.tried[1].reason
    tried_too = (
        r"- Tried too: recipe minmax, one scale for each weight \(signal left of float's logits: int8 \d+\.\d dB\): "
    )
    assert (re.search(tried_too + re.escape(behind), card) is not None) == (not wins)
    graph = onnx.load(bundle.folder / "model.onnx").graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    scales = [stored[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert any(len(scale.dims) and scale.dims[0] > 1 for scale in scales) == (not wins)
