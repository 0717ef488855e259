"""Tests of builds from a classifier that was trained elsewhere (`edgetl build --from-onnx`)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgetl.bundle import Bundle
from edgetl.errors import DataError, GraphError, ParityError, SettingsError
from edgetl.pipeline import BuildReport, BuildSettings, build, compose, exporting, make_plan, read_settings, steps
from edgetl.pipeline.plan import Plan
from edgetl.records import Quiet
from edgetl.runtime import Predictor, verify_bundle

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.fixture(scope="module")
def trained(built: Bundle, small_build: dict[str, Any], cache_base: Path) -> Plan:
    """Return the plan of the shared build, whose core graph is a classifier trained elsewhere for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETL_CACHE", str(cache_base))
        plan = make_plan(BuildSettings(**small_build, out=built.folder), Quiet())
        assert plan.exported.done
        _ = plan.core.read_bytes(), plan.borderless
    return plan


@pytest.fixture
def theirs(trained: Plan, tmp_path: Path) -> Path:
    """Return the classifier's file: it reads pixel/255."""
    path = tmp_path / "theirs.onnx"
    path.write_bytes(trained.core.read_bytes())
    return path


@pytest.fixture
def asked(theirs: Path, trained: Plan, colours: Path, tmp_path: Path) -> dict[str, Any]:
    """Return the settings of a build from that file."""
    fit = trained.borderless.fit
    return {"data": str(colours), "from_onnx": str(theirs), "fit": fit, "golden": 3, "out": tmp_path / "out", **RAW}


def report_of(bundle: Bundle) -> BuildReport:
    return BuildReport.model_validate_json(bundle.read("report.json"))


def test_the_bundle_answers_as_the_file_does(asked: dict[str, Any], built: Bundle, trained: Plan) -> None:
    bundle = build(BuildSettings(**asked))
    ours, before = report_of(bundle), report_of(built)
    assert ours.accuracy.float_ == before.accuracy.float_
    assert (ours.training, ours.accuracy.frozen, ours.seconds.tune) == (None, None, None)
    assert (bundle.manifest.backbone, bundle.manifest.weights.source) == ("theirs.onnx", "theirs.onnx")
    assert bundle.manifest.ladder[0].against == "theirs.onnx as it stands"
    assert ours.exporter == "folded theirs.onnx"
    assert len(verify_bundle(bundle.folder).replayed) == 1
    photo = trained.photos.usable.path_of(trained.photos.unseen[0])
    with Predictor.open(bundle.folder) as predictor:
        assert predictor.predict(photo).label in bundle.manifest.labels
    assert "It was trained elsewhere" in bundle.read("README.md").decode()


def test_the_second_time_nothing_is_made(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(BuildSettings(**asked))

    def refuse(*given: object) -> None:
        raise AssertionError("something is made again")

    for stage in list(steps.STEPS):
        monkeypatch.setitem(steps.STEPS, stage, refuse)
    assert build(BuildSettings(**asked)).manifest == first.manifest
    again = build(BuildSettings(**{**asked, "out": asked["out"].with_name("again")}))
    assert again.manifest.files["labels.txt"] == first.manifest.files["labels.txt"]


def test_its_classes_may_be_more_than_the_photos_have_and_in_another_order(
    asked: dict[str, Any], theirs: Path, trained: Plan, tmp_path: Path
) -> None:
    labels = trained.photos.usable.labels
    model = onnx.load(theirs)
    head = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    # One more class, which nothing is, first; the others follow backwards.
    for name, least in zip(head.input[1:], (0.0, -1e3), strict=True):
        values = numpy_helper.to_array(stored[name])
        more = np.concatenate([np.full_like(values[:1], least), values[::-1]])
        stored[name].CopyFrom(numpy_helper.from_array(more, name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(labels) + 1
    onnx.save(model, theirs)
    (tmp_path / "labels.txt").write_text("\n".join(["nothing", *labels[::-1]]) + "\n")
    bundle = build(BuildSettings(**asked, labels=str(tmp_path / "labels.txt")))
    report = report_of(bundle)
    assert bundle.manifest.labels == ("nothing", *labels[::-1])
    assert report.accuracy.float_ > 0.9
    assert [each.label for each in report.judged.damage.by_class] == list(labels[::-1])
    assert not any("nothing" in remark for remark in report.calibration.remarks)  # type: ignore[union-attr]


def test_labels_in_the_file_are_taken(asked: dict[str, Any], theirs: Path, trained: Plan) -> None:
    model = onnx.load(theirs)
    helper.set_model_props(model, {"labels": str(list(trained.photos.usable.labels[::-1]))})
    onnx.save(model, theirs)
    assert make_plan(BuildSettings(**asked), Quiet()).photos.dataset.labels == trained.photos.usable.labels[::-1]


def test_a_graph_that_cannot_be_folded_exactly_computes_its_normalisation(asked: dict[str, Any], theirs: Path) -> None:
    # A convolution that pads with zeros, and a mean between two levels, far from both at this contrast.
    model = onnx.load(theirs)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    for attribute in [each for each in conv.attribute if each.name in {"pads", "auto_pad"}]:
        conv.attribute.remove(attribute)
    conv.attribute.append(helper.make_attribute("pads", [9, 9, 9, 9]))
    onnx.save(model, theirs)
    off = {**asked, "mean": (0.4980392 + 0.49 / 255,) * 3, "std": (0.02, 0.02, 0.02)}
    report = report_of(build(BuildSettings(**off)))
    assert report.exporter == "explicit theirs.onnx"
    assert "relative error" in report.refused_exports[0]


class TestRefusals:
    def test_what_belongs_to_training_is_refused_beside_it(self, asked: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match=r"--epochs says how a network is trained, but --from-onnx \S*onnx"):
            read_settings(None, {**asked, "epochs": 3})

    @pytest.mark.parametrize(
        ("key", "value"), [("mean", "0,0,0"), ("channels", "bgr"), ("crop_share", 0.9), ("labels", "labels.txt")]
    )
    def test_what_belongs_to_it_is_refused_without_it(self, key: str, value: Any, tmp_path: Path) -> None:
        flag = f"--{key.replace('_', '-')}"
        with pytest.raises(SettingsError, match=rf"^{flag} says how .* Say --from-onnx FILE with it"):
            read_settings(None, {"data": "digits", "out": tmp_path / "out", key: value})

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("std", "0,1,1", r"its std is .* it is divided by, so each must be above 0"),
            ("std", "1,1,-1", r"its std is .* it is divided by, so each must be above 0"),
            ("mean", "123.7,116.3,103.5", r"of pixel/255 .* Divide what is of 255 by 255"),
        ],
    )
    def test_mean_and_std_must_be_of_pixels_in_shares(
        self, key: str, value: str, said: str, asked: dict[str, Any]
    ) -> None:
        with pytest.raises(GraphError, match=said):
            make_plan(read_settings(None, {**asked, key: value}), Quiet())

    @pytest.mark.parametrize("mean", ["a,b,c", "nan,0,0"])
    def test_mean_is_three_numbers(self, mean: str, asked: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match=r"^--mean\.\d: Input should be a (valid|finite) number"):
            read_settings(None, {**asked, "mean": mean})

    def test_numbers_of_the_command_line_are_read(self, asked: dict[str, Any]) -> None:
        assert read_settings(None, {**asked, "mean": "0.485,0.456,0.406"}).mean == (0.485, 0.456, 0.406)

    def test_another_number_of_classes_asks_for_labels(self, asked: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("one\ntwo\n")
        with pytest.raises(
            SettingsError, match=r"tells \d classes apart, but there are 2 .* Mend \S*labels\.txt: a class"
        ):
            make_plan(BuildSettings(**asked, labels=str(tmp_path / "labels.txt")), Quiet())

    def test_labels_that_are_not_there_are_refused(self, asked: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match=r"--labels gone\.txt: no such file"):
            make_plan(BuildSettings(**asked, labels="gone.txt"), Quiet())

    def test_photos_of_a_class_that_it_does_not_know_are_refused(
        self, asked: dict[str, Any], trained: Plan, tmp_path: Path
    ) -> None:
        labels = [f"{label}s" for label in trained.photos.usable.labels]
        (tmp_path / "labels.txt").write_text("\n".join(labels))
        first = trained.photos.usable.labels[0]
        with pytest.raises(
            DataError, match=rf"the class '{first}' is not among the network's labels\. Did you mean {first}s"
        ):
            make_plan(BuildSettings(**asked, labels=str(tmp_path / "labels.txt")), Quiet())

    def test_a_graph_that_is_quantized_already_is_refused_before_anything_is_read(
        self, asked: dict[str, Any], theirs: Path
    ) -> None:
        model = onnx.load(theirs)
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "scale"))
        model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["image", "scale"], ["q"]))
        onnx.save(model, theirs)
        with pytest.raises(GraphError, match="is quantized already"):
            make_plan(BuildSettings(**{**asked, "data": "/no/such/folder"}), Quiet())

    @pytest.mark.parametrize(
        "changed",
        [{"mean": (0.1, 0.0, 0.0)}, {"std": (1.0, 1.0, 0.9)}, {"channels": "bgr"}, {"fit": "crop", "crop_share": 0.8}],
        ids=lambda changed: "+".join(changed),
    )
    def test_what_the_user_says_of_photos_makes_another_build(
        self, changed: dict[str, Any], asked: dict[str, Any]
    ) -> None:
        before, after = (make_plan(BuildSettings(**{**asked, **each}), Quiet()) for each in ({}, changed))
        assert before.exported.key != after.exported.key
        assert before.key != after.key

    def test_another_name_of_the_file_makes_another_build(self, asked: dict[str, Any], theirs: Path) -> None:
        before = make_plan(BuildSettings(**asked), Quiet())
        named = {**asked, "from_onnx": str(theirs.rename(theirs.with_name("other.onnx")))}
        assert make_plan(BuildSettings(**named), Quiet()).key != before.key

    def test_crop_share_without_a_crop_is_refused(self, asked: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match="--crop-share says how much `crop` keeps, but --fit is pad"):
            BuildSettings(**{**asked, "fit": "pad", "crop_share": 0.5})

    def test_the_command_in_the_model_card_makes_the_same_settings(self, asked: dict[str, Any]) -> None:
        settings = BuildSettings(**{**asked, "mean": (0.25, 0.5, 0.0)})
        words = shlex.split(compose._command(settings))[2:]
        said = dict(zip((word.lstrip("-").replace("-", "_") for word in words[::2]), words[1::2], strict=True))
        assert read_settings(None, said) == settings

    def test_diverse_photos_need_features_that_it_has_not(self, asked: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "own.toml").write_text(
            'schema = 1\nname = "own"\ndescription = "diverse"\nmethod = "minmax"\nimages = 5\nselect = "diverse"\n'
        )
        with pytest.raises(SettingsError, match=r"recipe own takes diverse photos, .* Take balanced or random"):
            make_plan(BuildSettings(**asked, recipe=str(tmp_path / "own.toml")), Quiet())

    def test_a_core_graph_that_computes_something_else_is_never_built_from(
        self, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = exporting.adopt_graph

        def wrong(foreign: Any, way: Any) -> Any:
            core = whole(foreign, way)
            tensor = next(each for each in core.model.graph.initializer if len(each.dims) == 4)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
            return core

        monkeypatch.setattr(exporting, "adopt_graph", wrong)
        said = r"no core graph computes what theirs\.onnx as it stands does: folded: rung 'core'"
        with pytest.raises(ParityError, match=said):
            build(BuildSettings(**asked, seed=5))
