"""Tests of edgetl/pipeline/variants.py: what is tried where what was quantized loses too much."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from edgetl.bench import summarise
from edgetl.pipeline import BuildReport, BuildSettings, Plan, build, measure, variants
from edgetl.pipeline.results import Judged
from edgetl.recipe import load_recipe
from edgetl.records import Precision, Quiet
from edgetl.target import load_target

WORST = tuple(f"layer{number}" for number in range(26))
IS_FAST = variants._is_fast
Tried = tuple[str, tuple[str, ...]]


@pytest.fixture(autouse=True)
def _int8_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_is_fast", lambda plan: True)


@pytest.fixture
def try_all(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Tried], Plan]]:
    """Return a function that walks the variants as if some way to quantize lost so many points, or were too slow: it
    gives what was tried, and what ships."""

    def try_all(lost: dict[Tried, float], too_slow: bool = False) -> tuple[list[Tried], Plan]:
        first = plan.judged.read("judged", Judged)
        (int8,) = (each for each in first.measured if each.precision == "int8")

        def judge(variant: Plan) -> Judged:
            points = lost.get((variant.recipe.name, variant.float_layers), 9.0)
            outside: tuple[Precision, ...] = ("int8",) if points > 0.5 else ()
            verdict = first.verdict.model_copy(
                update={"outside": outside, "precision": "fp32" if outside or too_slow else "int8"}
            )
            drop = int8.held_out_drop.model_copy(update={"points": points})
            measured = (first.measured[0], int8.model_copy(update={"held_out_drop": drop}))
            return first.model_copy(update={"verdict": verdict, "measured": measured})

        monkeypatch.setattr(variants, "judged_of", judge)
        monkeypatch.setattr(variants, "_rank", lambda nearest, progress, force: WORST)
        seen = list(variants.variants(plan, Quiet()))
        return [(each.recipe.name, each.float_layers) for each in seen], variants.choose(seen)

    return try_all


def test_no_other_recipe_is_tried_where_the_first_pays(try_all: Callable[..., Any]) -> None:
    tried, ships = try_all({("minmax", ()): 0.4})
    assert tried == [("minmax", ())]
    assert (ships.recipe.name, ships.float_layers) == ("minmax", ())


def test_nothing_more_is_tried_where_int8_is_too_slow(try_all: Callable[..., Any]) -> None:
    tried, _ = try_all({("minmax", ()): 0.0}, too_slow=True)
    assert tried == [("minmax", ())]


def test_the_next_recipe_is_tried_where_the_first_loses_too_much(try_all: Callable[..., Any]) -> None:
    tried, ships = try_all({("percentile", ()): 0.5})
    assert tried == [("minmax", ()), ("percentile", ())]
    assert ships.recipe.name == "percentile"


def test_the_worst_layers_of_the_best_recipe_go_back_to_float_until_it_pays(try_all: Callable[..., Any]) -> None:
    tried, ships = try_all({("minmax", ()): 2.0, ("percentile", ()): 1.0, ("percentile", WORST[:4]): 0.0})
    assert tried == [
        ("minmax", ()), ("percentile", ()), ("entropy", ()),
        ("percentile", WORST[:1]), ("percentile", WORST[:2]), ("percentile", WORST[:4]),
    ]  # fmt: skip
    assert (ships.recipe.name, ships.float_layers) == ("percentile", WORST[:4])


@pytest.mark.parametrize(
    ("engine", "here", "more"), [("openvino", True, True), ("tensorrt", True, False), ("tensorrt", False, True)]
)
def test_where_fp16_would_ship_other_recipes_are_tried_but_where_tensorrt_takes_minutes_for_each(
    engine: str,
    here: bool,
    more: bool,
    plan: Plan,
    write_target: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    asking: Callable[..., Plan],
) -> None:
    first = plan.judged.read("judged", Judged)
    refused = first.verdict.model_copy(update={"precision": "fp16", "outside": ("int8",)})
    monkeypatch.setattr(variants, "judged_of", lambda each: first.model_copy(update={"verdict": refused}))
    target = load_target(write_target(engine=engine, precisions=("int8", "fp16")))
    monkeypatch.setattr(variants, "devices_of", lambda name: ("cuda",) if here else ())
    seen = variants.variants(asking(plan, target=target), Quiet())
    assert next(seen).recipe.name == "minmax"
    assert [each.recipe.name for each in islice(seen, 1)] == ["percentile"] * more


def test_where_nothing_is_quantized_by_ranges_there_is_nothing_else_to_try(
    plan: Plan, write_target: Callable[..., str], monkeypatch: pytest.MonkeyPatch, asking: Callable[..., Plan]
) -> None:
    first = plan.judged.read("judged", Judged)
    refused = first.verdict.model_copy(update={"precision": "fp32", "outside": ("fp16",)})
    monkeypatch.setattr(variants, "judged_of", lambda each: first.model_copy(update={"verdict": refused}))
    target = load_target(write_target(engine="openvino", precisions=("fp16", "fp32")))
    assert len(list(variants.variants(asking(plan, target=target), Quiet()))) == 1


@pytest.mark.parametrize(
    ("precisions", "tried"), [(("int8", "fp32"), ["minmax", "nncf"]), (("fp32", "int8"), ["minmax"])]
)
def test_where_int8_is_too_slow_nncf_places_its_pairs_otherwise(
    precisions: tuple[str, ...], tried: list[str], plan: Plan, write_target: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch, asking: Callable[..., Plan],
) -> None:  # fmt: skip
    first = plan.judged.read("judged", Judged)
    slow = first.model_copy(update={"verdict": first.verdict.model_copy(update={"precision": "fp32", "outside": ()})})
    monkeypatch.setattr(variants, "judged_of", lambda each: slow)
    recipes = tuple(load_recipe(name) for name in ("minmax", "percentile", "nncf", "entropy"))
    target = load_target(write_target(precisions=precisions))
    seen = list(variants.variants(asking(plan, target=target, recipes=recipes), Quiet()))
    assert [each.recipe.name for each in seen] == tried


def test_what_is_too_slow_and_then_loses_too_much_ends_in_layers_of_what_lost(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, asking: Callable[..., Plan]
) -> None:
    first = plan.judged.read("judged", Judged)

    def judge(each: Plan) -> Judged:
        outside: tuple[Precision, ...] = ("int8",) if each.recipe.name == "nncf" else ()
        return first.model_copy(
            update={"verdict": first.verdict.model_copy(update={"precision": "fp32", "outside": outside})}
        )

    monkeypatch.setattr(variants, "judged_of", judge)
    monkeypatch.setattr(variants, "_rank", lambda nearest, progress, force: WORST)
    recipes = tuple(load_recipe(name) for name in ("minmax", "nncf"))
    seen = list(variants.variants(asking(plan, recipes=recipes), Quiet()))
    assert [(each.recipe.name, len(each.float_layers)) for each in seen] == [
        ("minmax", 0), ("nncf", 0), ("nncf", 1), ("nncf", 2), ("nncf", 4), ("nncf", 8),
    ]  # fmt: skip


@pytest.mark.parametrize(("fast", "layers"), [(True, [1, 2, 4, 8]), (False, [])])
def test_layers_go_back_to_float_in_what_loses_too_much_but_is_fast(
    fast: bool, layers: list[int], plan: Plan, monkeypatch: pytest.MonkeyPatch, asking: Callable[..., Plan]
) -> None:
    first = plan.judged.read("judged", Judged)

    def judge(each: Plan) -> Judged:
        # NNCF's is fast and loses too much, and percentile's answers well and is slow.
        outside: tuple[Precision, ...] = () if each.recipe.name == "percentile" else ("int8",)
        verdict = first.verdict.model_copy(update={"precision": "fp32", "outside": outside})
        return first.model_copy(update={"verdict": verdict})

    monkeypatch.setattr(variants, "judged_of", judge)
    monkeypatch.setattr(variants, "_is_fast", lambda each: fast and each.recipe.name == "nncf")
    monkeypatch.setattr(variants, "_rank", lambda nearest, progress, force: WORST)
    recipes = tuple(load_recipe(name) for name in ("minmax", "nncf", "percentile"))
    seen = list(variants.variants(asking(plan, recipes=recipes), Quiet()))
    assert [each.recipe.name for each in seen] == ["minmax", "nncf", "percentile", *["nncf"] * len(layers)]
    assert [len(each.float_layers) for each in seen[3:]] == layers
    assert variants.choose(seen) is seen[0]


class TestRefusals:
    """What was refused, though something else may ship in its place."""

    @pytest.fixture
    def walk(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], Plan]]:
        """Return a function that walks the variants of a plan, given what ships of each way and what was outside the
        budget: it gives what was tried, and what ships."""
        monkeypatch.setattr(variants, "_rank", lambda nearest, progress, force: WORST)
        first = plan.judged.read("judged", Judged)
        int8 = first.of("int8")

        def walk(plan: Plan, found: dict[str, tuple[str, tuple[str, ...]]]) -> tuple[list[str], Plan]:
            def judge(variant: Plan) -> Judged:
                ships, outside = found.get(str(variant.way).removeprefix("recipe "), found["else"])
                verdict = first.verdict.model_copy(update={"precision": ships, "outside": outside})
                others = [int8.model_copy(update={"precision": each}) for each in ("int8", "bf16", "fp16", "int8+fp16")]
                return first.model_copy(update={"verdict": verdict, "measured": (first.of("fp32"), *others)})

            monkeypatch.setattr(variants, "judged_of", judge)
            seen = list(variants.variants(plan, Quiet()))
            return [str(each.way).removeprefix("recipe ") for each in seen], variants.choose(seen)

        return walk

    @pytest.fixture
    def intel(self, plan: Plan, write_target: Callable[..., str], asking: Callable[..., Plan]) -> Plan:
        target = load_target(write_target(engine="openvino", precisions=("int8", "bf16", "fp32")))
        recipes = tuple(load_recipe(name) for name in ("minmax", "nncf", "percentile"))
        settings = plan.settings.model_copy(update={"qat": 2})
        return asking(plan, target=target, recipes=recipes, settings=settings)

    def test_other_ranges_are_tried_where_they_were_lacking_though_other_pairs_were_slow(
        self, intel: Plan, walk: Callable[..., tuple[list[str], Plan]]
    ) -> None:
        tried, ships = walk(
            intel,
            {"minmax": ("bf16", ("int8",)), "nncf": ("bf16", ()), "percentile": ("int8", ()), "else": ("fp32", ())},
        )
        assert tried == ["minmax", "nncf", "percentile"]
        assert ships.recipe.name == "percentile"

    def test_bfloat16_ships_of_the_network_as_it_was_where_int8_is_too_slow_in_the_end(
        self, intel: Plan, walk: Callable[..., tuple[list[str], Plan]]
    ) -> None:
        tried, ships = walk(intel, {"minmax, 1 layer in float": ("bf16", ()), "else": ("bf16", ("int8",))})
        assert tried[-2:] == ["minmax, after quantization-aware training", "minmax, 1 layer in float"]
        assert str(ships.way) == "recipe minmax"

    def test_what_is_outside_the_budget_after_training_does_not_ship_in_place_of_what_is_inside(
        self,
        plan: Plan,
        write_target: Callable[..., str],
        walk: Callable[..., tuple[list[str], Plan]],
        asking: Callable[..., Plan],
    ) -> None:
        target = load_target(write_target(engine="tensorrt", precisions=("int8+fp16", "fp16")))
        settings = plan.settings.model_copy(update={"qat": 2})
        jetson = asking(plan, target=target, settings=settings, recipes=plan.recipes[:1])
        tried, ships = walk(jetson, {"minmax": ("fp16", ("int8+fp16",)), "else": ("fp16", ("int8+fp16", "fp16"))})
        assert (len(tried), ships.aware) == (2, False)


class TestFast:
    """What would have been faster than float, had it not been refused."""

    @pytest.mark.parametrize(("float_ms", "int8_ms", "fast"), [(2.0, 1.0, True), (1.0, 2.0, False), (None, None, True)])
    def test_it_goes_by_the_medians_where_they_are_known(
        self, float_ms: float | None, int8_ms: float | None, fast: bool, plan: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = plan.judged.read("judged", Judged)
        known = {"fp32": float_ms, "int8": int8_ms}
        measured = tuple(
            each.model_copy(update={"latency": ms and summarise([ms])})
            for each, ms in ((first.of(precision), known[precision]) for precision in ("fp32", "int8"))
        )
        verdict = first.verdict.model_copy(update={"precision": "fp32", "outside": ("int8",)})
        judged = first.model_copy(update={"verdict": verdict, "measured": measured})
        monkeypatch.setattr(variants, "judged_of", lambda each: judged)
        assert IS_FAST(plan) is fast


class TestAware:
    """Quantization-aware training, where it was asked for."""

    @pytest.fixture
    def settings(self, settings: BuildSettings) -> BuildSettings:
        return settings.model_copy(update={"qat": 1})

    @pytest.fixture(autouse=True)
    def _slow_never_and_paying_where_aware(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(variants, "_is_too_slow", lambda variant: False)
        monkeypatch.setattr(variants, "_may_be_faster", lambda variant: False)
        monkeypatch.setattr(variants, "_pays", lambda variant: variant.aware)
        monkeypatch.setattr(variants, "_ends", lambda tried: not variants._asks_for_more(tried[-1]))
        monkeypatch.setattr(variants, "_better_refused", lambda variant, tried: None)

    def test_it_is_tried_after_the_recipes_by_the_best_of_them(
        self, plan: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = {"minmax": 3.0, "percentile": 1.0, "entropy": 2.0}
        monkeypatch.setattr(variants, "_loses_too_much", lambda variant: not variant.aware)
        monkeypatch.setattr(variants, "_lost", lambda variant: lost[variant.recipe.name])
        seen = list(variants.variants(plan, Quiet()))
        assert [(each.recipe.name, each.aware) for each in seen] == [
            ("minmax", False), ("percentile", False), ("entropy", False), ("percentile", True),
        ]  # fmt: skip

    def test_it_is_not_tried_where_a_recipe_pays(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(variants, "_loses_too_much", lambda variant: False)
        assert not any(each.aware for each in variants.variants(plan, Quiet()))

    def test_what_learned_to_bear_the_rounding_ships_and_says_so(
        self, settings: BuildSettings, write_target: Callable[..., str], lines: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(variants, "_loses_too_much", lambda variant: not variant.aware)
        monkeypatch.setattr(variants, "_lost", lambda variant: 1.0)
        monkeypatch.setattr(measure, "_latencies", lambda *given: None)
        wide = settings.model_copy(update={"target": write_target(accuracy_drop_points=99)})
        bundle = build(wide, lines)
        report = BuildReport.model_validate_json(bundle.read("report.json"))
        assert [each.way.aware for each in report.tried] == [False, False, False, True]
        assert report.way == report.tried[-1].way
        assert report.qat is not None
        assert len(report.qat.history.epochs) == 2
        assert [rung.against for rung in bundle.manifest.ladder] == [
            "the trained network", "the trained network", "the network after quantization-aware training", "fp32",
            "int8 as ONNX defines it",
        ]  # fmt: skip
        assert any(line.endswith("Next: recipe minmax, after quantization-aware training") for line in lines.said)
        assert "trained on for 1 epoch of quantization-aware training" in bundle.read("README.md").decode()
        build(wide, lines)
        assert lines.said[-1].endswith("is up to date")

    def test_it_is_tried_for_tensorrt_which_has_fp16_in_place_of_layers_in_float(
        self, plan: Plan, write_target: Callable[..., str], monkeypatch: pytest.MonkeyPatch, asking: Callable[..., Plan]
    ) -> None:
        first = plan.judged.read("judged", Judged)
        refused = first.verdict.model_copy(update={"precision": "fp16", "outside": ("int8",)})
        monkeypatch.setattr(variants, "judged_of", lambda each: first.model_copy(update={"verdict": refused}))
        target = load_target(write_target(engine="tensorrt", precisions=("int8", "fp16")))
        seen = list(variants.variants(asking(plan, target=target, recipes=plan.recipes[:1]), Quiet()))
        assert [(each.recipe.name, each.aware) for each in seen] == [("minmax", False), ("minmax", True)]

    def test_where_int8_is_not_faster_it_is_left_out_and_that_is_said(
        self, plan: Plan, lines: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(variants, "_loses_too_much", lambda variant: True)
        monkeypatch.setattr(variants, "_is_fast", lambda variant: False)
        assert not any(each.aware for each in variants.variants(plan, lines))
        assert lines.said[-1].startswith("--qat is left out: INT8 would be no faster than float here")

    def test_where_nothing_helps_layers_of_the_better_go_back_to_float(
        self, plan: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(variants, "_loses_too_much", lambda variant: True)
        monkeypatch.setattr(variants, "_lost", lambda variant: 1.0 if variant.aware else 2.0)
        monkeypatch.setattr(variants, "_rank", lambda nearest, progress, force: WORST)
        seen = list(variants.variants(plan, Quiet()))
        assert [(each.aware, len(each.float_layers)) for each in seen[3:]] == [
            (True, 0), (True, 1), (True, 2), (True, 4), (True, 8),
        ]  # fmt: skip


def test_float_ships_as_first_judged_where_nothing_helps(try_all: Callable[..., Any]) -> None:
    tried, ships = try_all({})
    assert [layers for _, layers in tried] == [(), (), (), WORST[:1], WORST[:2], WORST[:4], WORST[:8]]
    assert (ships.recipe.name, ships.float_layers) == ("minmax", ())
