"""Tests of edgetl/pipeline/plan.py."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgetl.bundle import Bundle
from edgetl.data import load_image
from edgetl.errors import BackboneError, BundleError, DataError, MissingError, RecipeError, SettingsError, TargetError
from edgetl.pipeline import BuildSettings, Plan
from edgetl.pipeline.plan import BATCH
from edgetl.pipeline.request import read_requests
from edgetl.records import Border, Quiet

ORDER = [
    "check", "view", "decoded", "frozen", "tuned", "exported", "reference", "calibrated", "quantized", "compiled",
    "answered", "judged", "bundle",
]  # fmt: skip
Keys = Callable[..., dict[str, str]]


@pytest.fixture
def keys_of(plan_of: Callable[..., Plan]) -> Keys:
    def keys_of(**changed: Any) -> dict[str, str]:
        plan = plan_of(**changed)
        return {**{stage.name: stage.key for stage in plan.stages}, "bundle": plan.key}

    return keys_of


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        ({"backbone": "torchvision/squeezenet1_0"}, "view"),
        ({"image_size": 48}, "view"),
        ({"fit": "pad"}, "view"),
        ({"skip_bad": True}, "view"),
        ({"head": "mlp"}, "frozen"),
        ({"views": 2}, "frozen"),
        ({"epochs": 2}, "tuned"),
        ({"lr": 0.01}, "tuned"),
        ({"unfreeze": "gradual"}, "tuned"),
        ({"layer_decay": 0.8}, "tuned"),
        ({"recipe": "entropy"}, "calibrated"),
        ({"golden": 4}, "bundle"),
        ({"seed": 1}, "check"),
    ],
)
def test_a_change_makes_its_stage_and_all_after_it_anew(changed: dict[str, Any], first: str, keys_of: Keys) -> None:
    before, after = keys_of(), keys_of(**changed)
    assert list(before) == ORDER
    assert [name for name in ORDER if before[name] != after[name]] == ORDER[ORDER.index(first) :]


@pytest.mark.parametrize("kind", ["added", "changed", "renamed"])
def test_other_photos_make_everything_anew(kind: str, colours: Path, keys_of: Keys, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(colours, tmp_path / "photos"))
    if kind == "added":
        shutil.copy(moved / "red" / "00.png", moved / "blue" / "more.png")
    elif kind == "changed":
        (moved / "red" / "00.png").write_bytes((moved / "red" / "01.png").read_bytes() + b" ")
    else:
        (moved / "red" / "00.png").rename(moved / "red" / "zero.png")
    before, after = keys_of(), keys_of(data=str(moved))
    assert all(before[name] != after[name] for name in ORDER)


def test_a_folder_that_moves_changes_nothing(colours: Path, keys_of: Keys, tmp_path: Path) -> None:
    assert keys_of(data=str(shutil.copytree(colours, tmp_path / "elsewhere"))) == keys_of()


def test_where_the_bundle_goes_changes_nothing(keys_of: Keys, tmp_path: Path) -> None:
    assert keys_of(out=tmp_path / "other") == keys_of()


def test_other_weights_make_the_view_anew(keys_of: Keys, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"abc")
    before, after = keys_of(), keys_of(weights=str(tmp_path / "w.pth"))
    assert [name for name in ORDER if before[name] == after[name]] == ["check"]
    (tmp_path / "w.pth").write_bytes(b"abd")
    assert keys_of(weights=str(tmp_path / "w.pth"))["view"] != after["view"]


def test_what_a_file_holds_is_in_the_key_of_the_bundle(keys_of: Keys, tmp_path: Path) -> None:
    bundles = []
    for content in (b"abc", b"abd", b"abc"):
        (tmp_path / "w.pth").write_bytes(content)
        bundles.append(keys_of(weights=str(tmp_path / "w.pth"))["bundle"])
    assert bundles[0] == bundles[2] != bundles[1]
    assert keys_of()["bundle"] != keys_of(weights=None)["bundle"]
    (tmp_path / "own.toml").write_bytes((Path(__file__).parents[2] / "calibration" / "minmax.toml").read_bytes())
    before = keys_of(recipe=str(tmp_path / "own.toml"))["bundle"]
    (tmp_path / "own.toml").write_text((tmp_path / "own.toml").read_text().replace("images = 200", "images = 100"))
    assert keys_of(recipe=str(tmp_path / "own.toml"))["bundle"] != before


def test_a_graphs_weights_beside_it_are_in_the_key_of_the_bundle(
    built: Bundle, small_build: dict[str, Any], tmp_path: Path
) -> None:
    graph, keys = onnx.load(built.folder / "model.onnx"), []
    said = {"data": small_build["data"], "from_onnx": str(tmp_path / "theirs.onnx"), "out": tmp_path / "out"}
    for scale in (1, 2, 1):
        first = graph.graph.initializer[0]
        first.CopyFrom(numpy_helper.from_array(np.full(64, scale, dtype=np.float32), first.name))
        onnx.save(graph, tmp_path / "theirs.onnx", save_as_external_data=True, location="data", size_threshold=0)
        (request,) = read_requests([BuildSettings(**said)], Quiet())
        keys.append(request.key)
    assert keys[0] == keys[2] != keys[1]
    (tmp_path / "data").unlink()
    (request,) = read_requests([BuildSettings(**said)], Quiet())
    assert request.key not in keys


def test_several_bundles_in_one_folder_are_refused(
    small_build: dict[str, Any], write_target: Callable[..., str], tmp_path: Path
) -> None:
    both = [BuildSettings(**small_build, target=each, out=tmp_path / "out") for each in ("cpu", write_target())]
    with pytest.raises(SettingsError, match=r"--out \S*out would hold several bundles\. Give each a folder of its own"):
        read_requests(both, Quiet())


def test_another_budget_judges_anew_and_makes_nothing_anew(keys_of: Keys, write_target: Callable[..., str]) -> None:
    before, after = keys_of(target=write_target()), keys_of(target=write_target(accuracy_drop_points=3.0))
    assert [name for name in ORDER if before[name] != after[name]] == ["judged", "bundle"]


@pytest.mark.parametrize(
    ("engine", "precisions", "left_out"),
    [
        ("onnxruntime", ("fp32",), {"calibrated", "quantized", "answered"}),
        ("onnxruntime", ("int8",), set()),
        ("tensorrt", ("fp16",), {"calibrated"}),
        ("tensorrt", ("int8+fp16",), set()),
    ],
)
def test_stages_that_a_target_has_no_use_for_are_left_out(
    engine: str, precisions: tuple[str, ...], left_out: set[str], plan_of: Callable[..., Plan],
    write_target: Callable[..., str],
) -> None:  # fmt: skip
    if engine == "tensorrt":
        pytest.importorskip("modelopt", reason="ModelOpt types the graphs of a bundle for TensorRT")
    plan = plan_of(target=write_target(precisions=precisions, engine=engine))
    assert [stage.name for stage in plan.stages] == [name for name in ORDER[:-1] if name not in left_out]


@pytest.mark.parametrize(
    ("precisions", "standbys"),
    [
        (("int8+fp16", "int8", "fp16"), {"int8": "int8+fp16"}),
        (("int8", "fp16", "int8+fp16"), {"int8+fp16": "int8"}),
        (("int8", "fp16"), {}),
    ],
)
def test_what_quantizes_as_an_earlier_precision_does_stands_behind_it(
    precisions: tuple[str, ...], standbys: dict[str, str], plan_of: Callable[..., Plan],
    write_target: Callable[..., str],
) -> None:  # fmt: skip
    pytest.importorskip("modelopt", reason="ModelOpt types the graphs of a bundle for TensorRT")
    assert plan_of(target=write_target(precisions=precisions, engine="tensorrt")).standbys == standbys


def test_a_log_that_is_not_installed_is_said_before_any_work(
    plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetl.pipeline.request.find_spec", lambda name: None if name == "mlflow" else object())
    with pytest.raises(MissingError, match=r"^--log mlflow: it is not installed\. Run: pip install mlflow$"):
        plan_of(log="mlflow")


def test_who_is_told_changes_nothing(keys_of: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl.pipeline.request.find_spec", lambda name: object())
    assert keys_of(log="mlflow") == keys_of()


@pytest.mark.parametrize(
    ("target", "module", "extra"), [("intel-cpu", "openvino", "openvino"), ("jetson", "modelopt", "train")]
)
def test_what_is_missing_to_build_is_said_before_any_work(
    target: str, module: str, extra: str, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetl.pipeline.request.find_spec", lambda name: None)
    message = rf"{module} is needed to build for [\w-]+ and is not installed\. Run: pip install 'edgetl\[{extra}\]'"
    with pytest.raises(MissingError, match=message):
        plan_of(target=target)


def test_another_engine_shares_every_stage_before_its_own(keys_of: Keys, write_target: Callable[..., str]) -> None:
    pytest.importorskip("openvino", reason="the engine openvino is not installed here")
    before, after = keys_of(target=write_target()), keys_of(target=write_target(engine="openvino"))
    assert [name for name in ORDER if before[name] != after[name]] == [
        "quantized", "compiled", "answered", "judged", "bundle"
    ]  # fmt: skip


@pytest.mark.parametrize("border", [Border(), Border(top=2, left=1, bottom=1, right=3)])
def test_photos_are_read_as_the_network_reads_them_and_by_their_rows(
    border: Border, plan_of: Callable[..., Plan], own_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    how = plan.faced.model_copy(update={"border": border})
    monkeypatch.setattr(Plan, "faced", property(lambda self: how))
    last = len(plan.photos.kept) - 1
    for rows, batches in (([0], [1]), ([last, 3, 1], [3]), ([2] * (BATCH + 1), [BATCH, 1])):
        found = list(plan.read_kept(rows))
        assert [len(each) for each in found] == batches
        expected = [load_image(plan.photos.usable.path_of(plan.photos.kept[row]), how) for row in rows]
        np.testing.assert_array_equal(np.concatenate(found), expected)
    assert [plan.photos.kept[row] for row in plan.photos.rows_of(plan.photos.proving)] == list(plan.photos.proving)


def test_planning_makes_nothing(plan_of: Callable[..., Plan], no_stages: Path, tmp_path: Path) -> None:
    plan = plan_of()
    assert not any(stage.done for stage in plan.stages)
    assert not no_stages.exists()
    assert not (tmp_path / "out").exists()


def test_a_precision_that_the_target_does_not_allow_is_an_error_before_any_work(
    plan_of: Callable[..., Plan], no_stages: Path
) -> None:
    with pytest.raises(SettingsError, match="--precision bf16 cannot be built for cpu, which allows int8, fp32"):
        plan_of(precision="bf16")


def test_a_strict_budget_judges_anew(keys_of: Keys) -> None:
    before, after = keys_of(), keys_of(strict_budget=True)
    assert [name for name in ORDER if before[name] != after[name]] == ["judged", "bundle"]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"backbone": "torchvision/squeezenet11"}, BackboneError, r"Did you mean torchvision/squeezenet1_1"),
        ({"target": "cpus"}, TargetError, r"unknown target 'cpus'\. Did you mean cpu"),
        ({"recipe": "minimax"}, RecipeError, r"unknown recipe 'minimax'\. Did you mean minmax"),
        ({"data": "nowhere"}, DataError, r"nowhere: no such folder"),
        ({"weights": "none.pth"}, BackboneError, r"--weights none\.pth: no such file"),
    ],
)
def test_what_does_not_exist_is_an_error_before_any_work(
    changed: dict[str, Any], error: type[Exception], message: str, plan_of: Callable[..., Plan], no_stages: Path
) -> None:
    with pytest.raises(error, match=message):
        plan_of(**changed)
    assert not no_stages.exists()


def test_an_output_folder_that_is_no_bundle_is_an_error_before_any_work(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(
        BundleError, match=r"out: exists and is no bundle, so it is not replaced\. Choose another --out"
    ):
        plan_of()
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_nncf_is_refused_for_tensorrt(plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(SettingsError, match=r"recipe nncf quantizes by NNCF, .* jetson-orin-nano wants ModelOpt's"):
        plan_of(target="jetson", recipe="nncf")


def test_the_users_budget_goes_before_the_targets(plan_of: Callable[..., Plan]) -> None:
    usual, wide = plan_of(), plan_of(budget=2.5)
    assert (usual.target.budget.accuracy_drop_points, wide.target.budget.accuracy_drop_points) == (0.5, 2.5)
    assert wide.answered == usual.answered
    assert wide.judged != usual.judged


@pytest.mark.parametrize(
    ("engine", "precisions", "there"),
    [("tensorrt", ("int8",), True), ("onnxruntime", ("fp16", "fp32"), True), ("onnxruntime", ("int8", "fp32"), False)],
)
def test_modelopts_version_is_in_the_key_of_what_it_makes(
    engine: str, precisions: tuple[str, ...], there: bool, plan_of: Callable[..., Plan],
    write_target: Callable[..., str],
) -> None:  # fmt: skip
    pytest.importorskip("modelopt", reason="ModelOpt types the graphs")
    plan = plan_of(target=write_target(precisions=precisions, engine=engine))
    assert ("nvidia-modelopt" in plan.engines) is there
