"""Tests of edgetl/pipeline/variants.py: what few held-out photos cannot tell."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import Bundle
from edgetl.metrics import MOST_DB
from edgetl.pipeline import BuildReport, BuildSettings, Plan, build, steps, variants
from edgetl.pipeline.results import Judged
from edgetl.records import Quiet
from edgetl.target import load_target

WORST = tuple(f"layer{number}" for number in range(26))


@pytest.fixture(autouse=True)
def _int8_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_is_fast", lambda plan: True)


class TestLuck:
    """A way that leaves far less signal than another that was refused, and yet loses less."""

    @pytest.fixture
    def seen(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Plan]]:
        """Return a function that walks the variants where min-max keeps 30 dB and is refused and percentile keeps so
        many and is not, given how many of 40 photos min-max and percentile alone answer right; `asked` is a plan
        that has INT8 first."""
        first = plan.judged.read("judged", Judged)
        (int8,) = (each for each in first.measured if each.precision == "int8")
        labels = np.zeros(40, dtype=np.int64)
        monkeypatch.setattr(variants, "labels_of", lambda photos: labels)
        monkeypatch.setattr(variants, "_rank", lambda nearest, progress, force: WORST)

        def seen(signal_db: float, minmax: int, percentile: int, asked: Plan = plan) -> list[Plan]:
            precision = asked.lower_precisions[0]
            right = {"minmax": slice(minmax), "percentile": slice(minmax, minmax + percentile), "entropy": slice(0)}

            def judge(variant: Plan) -> Judged:
                lucky = variant.recipe.name == "percentile" and not variant.float_layers
                signal = signal_db if variant.recipe.name == "percentile" else 30.0
                verdict = first.verdict.model_copy(
                    update={"outside": () if lucky else (precision,), "precision": precision if lucky else "fp32"}
                )
                drop = int8.held_out_drop.model_copy(update={"points": 1.0})
                update = {"precision": precision, "held_out_drop": drop, "signal_db": signal}
                return first.model_copy(
                    update={"verdict": verdict, "measured": (first.measured[0], int8.model_copy(update=update))}
                )

            def answer(variant: Plan) -> dict[str, Any]:
                logits = np.tile([0.0, 1.0], (len(labels), 1))
                logits[right[variant.recipe.name]] = (1.0, 0.0)
                return {precision: logits}

            monkeypatch.setattr(variants, "judged_of", judge)
            monkeypatch.setattr(Plan, "held_logits", property(answer))
            return list(variants.variants(asked, Quiet()))

        return seen

    @pytest.mark.parametrize(
        ("signal_db", "minmax", "percentile"),
        [(27.1, 0, 1), (MOST_DB, 0, 1), (9.7, 0, 5)],
        ids=["nearly as much", "all of it", "better beyond chance"],
    )
    def test_what_is_as_good_ships(
        self, signal_db: float, minmax: int, percentile: int, seen: Callable[..., list[Plan]]
    ) -> None:
        tried = seen(signal_db, minmax, percentile)
        assert [each.recipe.name for each in tried] == ["minmax", "percentile"]
        assert variants.choose(tried) is tried[1]
        assert "lucky" not in variants.said_of(tried[1], tried)

    @pytest.mark.parametrize(("minmax", "percentile"), [(0, 1), (0, 4), (1, 5), (2, 1)])
    def test_what_was_lucky_does_not_and_the_search_goes_on(
        self, minmax: int, percentile: int, seen: Callable[..., list[Plan]]
    ) -> None:
        tried = seen(26.9, minmax, percentile)
        assert [each.recipe.name for each in tried[:3]] == ["minmax", "percentile", "entropy"]
        # Layers go back to float in what is sound, not in what was lucky.
        assert {each.recipe.name for each in tried[3:]} == {"minmax"}
        assert variants.choose(tried) is tried[0]
        assert variants.said_of(tried[1], tried).endswith(
            "But it leaves 26.9 dB of signal where recipe minmax, which was refused, leaves 30.0, and answers no "
            "better beyond chance: it was lucky, and does not ship"
        )
        assert "lucky" not in variants.said_of(tried[0], tried)

    def test_int8_whose_rest_is_in_float16_is_told_alike(
        self, plan: Plan, seen: Callable[..., list[Plan]], write_target: Callable[..., str], asking: Callable[..., Plan]
    ) -> None:
        target = load_target(write_target(engine="tensorrt", precisions=("int8+fp16", "fp16")))
        tried = seen(26.9, 0, 4, asking(plan, target=target))
        assert [each.recipe.name for each in tried] == ["minmax", "percentile", "entropy"]
        assert "it was lucky, and does not ship" in variants.said_of(tried[1], tried)
        assert variants.choose(tried) is tried[0]

    def test_what_so_few_photos_do_not_prove_was_not_lucky(
        self, plan: Plan, monkeypatch: pytest.MonkeyPatch, asking: Callable[..., Plan]
    ) -> None:
        first = plan.judged.read("judged", Judged)
        (int8,) = (each for each in first.measured if each.precision == "int8")
        refused = first.verdict.model_copy(update={"outside": ("int8",), "precision": "fp32"})
        both = {
            name: first.model_copy(
                update={
                    "verdict": refused,
                    "measured": (
                        first.measured[0],
                        int8.model_copy(
                            update={
                                "signal_db": signal,
                                "held_out_drop": int8.held_out_drop.model_copy(update={"lost": lost}),
                            }
                        ),
                    ),
                }
            )
            for name, signal, lost in (("minmax", 30.0, 1), ("percentile", 20.0, 0))
        }
        monkeypatch.setattr(variants, "judged_of", lambda each: both[each.recipe.name])
        strict = asking(plan, settings=plan.settings.model_copy(update={"strict_budget": True}))
        tried = list(variants.variants(strict, Quiet()))
        assert [each.recipe.name for each in tried] == ["minmax", "percentile"]
        assert variants.choose(tried) is tried[0]
        assert variants.said_of(tried[1], tried) == refused.reason


@pytest.fixture
def strict(settings: BuildSettings, write_target: Callable[..., str]) -> BuildSettings:
    """Return a build for which no way to quantize can do: three held-out photos prove nothing."""
    return settings.model_copy(update={"strict_budget": True, "target": write_target()})


def test_proof_that_so_few_photos_cannot_give_is_said_at_once_and_not_searched_for(
    built: Bundle, strict: BuildSettings, lines: Any
) -> None:
    report = BuildReport.model_validate_json(build(strict, lines).read("report.json"))
    (tried,) = report.tried
    assert tried.drops["int8"].lost == 0
    said = "--strict-budget: where none of 3 held-out photos is lost, up to 100.0 points may be all the same"
    assert sum(line.startswith(said) for line in lines.said) == 1
    assert lines.said.index(next(line for line in lines.said if line.startswith("--strict"))) < 4


def test_every_way_that_was_tried_is_in_the_report_and_none_is_tried_twice(
    built: Bundle, strict: BuildSettings, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "_loses_too_much", lambda variant: True)
    monkeypatch.setattr(variants, "_ends", lambda tried: False)
    bundle = build(strict, lines)
    report = BuildReport.model_validate_json(bundle.read("report.json"))
    assert report.judged.verdict.precision == "fp32"
    assert [each.way.recipe for each in report.tried[:3]] == ["minmax", "percentile", "entropy"]
    assert [len(each.way.float_layers) for each in report.tried] == [0, 0, 0, 1, 2, 4, 8]
    assert all(len(each.drops) == len(each.signals_db) == 1 for each in report.tried)
    assert all(each.signals_db["int8"] > 1.0 for each in report.tried)
    assert report.way == report.tried[0].way
    card = bundle.read("README.md").decode()
    assert re.search(
        r"- Tried: recipe percentile \(signal left of float's logits: int8 \d+\.\d dB\): INT8 is outside", card
    )
    assert re.search(r", 2 layers in float \(.*\): INT8 is outside", card)
    assert "Ranges for quantization" not in card
    assert any(line.endswith("Next: recipe percentile") for line in lines.said)

    def refuse(*given: object) -> None:
        raise AssertionError("something is made again")

    for stage in list(steps.STEPS):
        monkeypatch.setitem(steps.STEPS, stage, refuse)
    monkeypatch.setattr(variants, "rank_layers", refuse)
    again = build(strict.model_copy(update={"out": strict.out.with_name("again")}), lines)
    assert BuildReport.model_validate_json(again.read("report.json")).tried == report.tried
