"""Tests of edgetl/cli/build.py."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic_core import PydanticUndefined

from edgetl.bundle import Bundle
from edgetl.cli.build import _print_result, _print_table
from edgetl.pipeline import BuildReport, BuildSettings, Summary

Run = Callable[..., Any]
STAGES = [
    "check", "view", "decoded", "frozen", "tuned", "exported", "reference", "calibrated", "quantized", "compiled",
    "answered", "judged",
]  # fmt: skip
# What another number of epochs leaves as it is.
BEFORE_EPOCHS = STAGES[: STAGES.index("tuned")]


def flags(settings: dict[str, Any], **changed: Any) -> list[str]:
    both = {**settings, **changed}
    return [word for name, value in both.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def paths(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.usefixtures("built")
class TestResult:
    def test_json_is_one_object_with_the_keys_that_scripts_read(
        self, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        ran = edgetl("build", *flags(small_build), "--out", tmp_path / "out", "--json")
        assert ran.code == 0
        assert list(ran.json) == [
            "bundle", "target", "engine", "precision", "reason", "classes", "split", "images", "accuracy",
            "drop", "missed", "latency_ms", "size_bytes", "seconds",
        ]  # fmt: skip
        assert {name: list(ran.json[name]) for name in ("accuracy", "latency_ms", "size_bytes", "seconds")} == {
            "accuracy": ["frozen", "float", "shipped"],
            "latency_ms": ["float_p50", "shipped_p50"],
            "size_bytes": ["float", "shipped"],
            "seconds": ["frozen", "tune", "total"],
        }
        assert (ran.json["bundle"], ran.json["target"], ran.json["engine"], ran.json["classes"]) == (
            str(tmp_path / "out"), "cpu", "onnxruntime", 3
        )  # fmt: skip
        assert all(0.0 <= share <= 1.0 for share in ran.json["accuracy"].values())

    def test_people_read_figures_of_both_precisions_and_what_to_type_next(
        self, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        ran = edgetl("build", *flags(small_build), "--out", out)
        lines = ran.out.strip().splitlines()
        assert ran.code == 0
        assert lines[0] == "Accuracy is on 6 val photos that nothing was chosen by."
        assert re.fullmatch(r"frozen stage \S+ %, fine-tuned \S+ % \(95 % interval \S+ to \S+\)", lines[1])
        rest = lines[2:] if lines[2].startswith("fp32") else lines[3:]
        assert [line.split()[0] for line in rest[:3]] == ["fp32", "int8", "tried"]
        assert re.search(r"recipe minmax, signal left of float's logits: int8 \d+\.\d dB$", rest[2])
        assert any(line.startswith("One held-out photo is 33.3 points, so 3 are too few to tell") for line in lines)
        assert any(line.startswith("Calibration: 27 photos calibrate: with fewer than 100") for line in lines)
        assert sum(line.endswith("MB  <- ships") for line in lines) == 1
        assert lines[-4:] == [
            "Next:",
            f"  edgetl verify {out}",
            f"  edgetl bench {out}",
            f"  edgetl predict {out} PHOTO.jpg",
        ]

    def test_progress_goes_to_stderr(self, edgetl: Run, small_build: dict[str, Any], tmp_path: Path) -> None:
        ran = edgetl("build", *flags(small_build), "--out", tmp_path / "out", "--json")
        assert [line for line in ran.err.splitlines() if line.endswith("already done")] == [
            f"{stage}: already done" for stage in STAGES
        ]

    def test_the_same_again_is_up_to_date(self, edgetl: Run, small_build: dict[str, Any], built: Bundle) -> None:
        ran = edgetl("build", *flags(small_build), "--out", built.folder, "--json")
        assert ran.code == 0
        assert ran.err.strip().endswith(f"{built.folder} is up to date")
        assert ran.json["bundle"] == str(built.folder)

    def test_a_budget_that_is_missed_is_printed_as_a_miss_and_the_bundle_is_there(
        self, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        (tmp_path / "tight.toml").write_text(
            'schema = 1\nname = "tight"\ndescription = "a device with no room"\n\n[engine]\nname = "onnxruntime"\n'
            'precisions = ["int8", "fp32"]\n\n[budget]\naccuracy_drop_points = 0.5\nsize_bytes = 1000\n'
        )
        words = flags(small_build, target=tmp_path / "tight.toml")
        ran = edgetl("build", *words, "--out", tmp_path / "out", "--json")
        assert ran.code == 3
        assert ran.err.splitlines()[-1].startswith("edgetl: BudgetError: MISSED: tight: size ")
        assert ran.err.splitlines()[-1].endswith(
            " bytes, the budget is 1000 bytes. The bundle was written all the same. More photos tell more; --precision "
            "fp32 ships float, --budget says what may be lost"
        )
        assert ran.json["target"] == "tight"
        (missed,) = ran.json["missed"]
        assert missed.endswith(" bytes, the budget is 1000 bytes")
        assert Bundle.open(tmp_path / "out").check_files()


def test_what_was_not_tried_is_said(built: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    report = BuildReport.model_validate_json(built.read("report.json"))
    judged = report.judged.model_copy(update={"not_tried": {"int8": "int8+fp16"}})
    _print_result(Summary.of("here", "tensorrt", report), report.model_copy(update={"judged": judged}), 1.0)
    assert "int8       not tried: it quantizes as int8+fp16 does, which was not chosen\n" in capsys.readouterr().out


@pytest.mark.parametrize(("load", "said"), [(0.5, "at a load of 0.5.\n"), (99.0, "at a load of 99.0: others may have")])
def test_when_and_at_what_load_it_was_timed_is_said(
    load: float, said: str, built: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    report = BuildReport.model_validate_json(built.read("report.json"))
    machine = report.judged.machine.model_copy(update={"load_1min": load, "date": "2026-01-02T03:04:05+00:00"})
    judged = report.judged.model_copy(update={"machine": machine})
    _print_result(Summary.of("here", "onnxruntime", report), report.model_copy(update={"judged": judged}), 1.0)
    shown = capsys.readouterr().out
    assert "Timed 2026-01-02T03:04:05+00:00 on " in shown
    assert said in shown


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("frozen", "best", "said"),
    [
        (0.4, 1, None),
        (0.5, 1, "Fine-tuning brought nothing there"),
        (1.0, 1, "Fine-tuning lost 50.00 points there"),
        (0.5, 0, "No epoch answered the held-out photos better than the frozen stage, so its network is kept."),
    ],
)
def test_fine_tuning_that_brought_nothing_is_said(
    frozen: float, best: int, said: str | None, several: bool, built: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    report = BuildReport.model_validate_json(built.read("report.json"))
    assert report.training is not None
    history = report.training.tuned.history.model_copy(update={"best": best})
    tuned = report.training.tuned.model_copy(update={"history": history})
    accuracy = report.accuracy.model_copy(update={"frozen": frozen, "float_": 0.5})
    training = report.training.model_copy(update={"tuned": tuned})
    report = report.model_copy(update={"accuracy": accuracy, "training": training})
    summary = Summary.of("here", "onnxruntime", report)
    if several:
        _print_table([summary, summary], [report, report], [1.0, 1.0])
    else:
        _print_result(summary, report, 1.0)
    shown = capsys.readouterr().out
    assert f"frozen stage {100 * frozen:.2f} %, fine-tuned 50.00 %" in shown
    assert ("Fine-tuning" in shown or "No epoch" in shown) == (said is not None)
    assert f"{said or ''}" in shown


def test_who_may_have_seen_the_photos_is_said_of_a_network_trained_elsewhere(
    built: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    report = BuildReport.model_validate_json(built.read("report.json"))
    accuracy = report.accuracy.model_copy(update={"frozen": None})
    report = report.model_copy(update={"accuracy": accuracy, "training": None})
    _print_result(Summary.of("here", "onnxruntime", report), report, 1.0)
    shown = capsys.readouterr().out
    assert "that edgetl chose nothing by; whether the network was trained on them is not known here." in shown
    assert "nothing was chosen by" not in shown


def test_help_says_the_defaults(edgetl: Run) -> None:
    shown = " ".join(edgetl("build", "--help").out.split())
    for name, field in BuildSettings.model_fields.items():
        if field.default not in {None, PydanticUndefined, False}:
            found = re.search(rf"--{name.replace('_', '-')} .*?\[default: (.*?)\]", shown)
            assert found, name
            assert found[1] == str(field.default), name


class TestDryRun:
    def test_it_lists_the_stages_that_are_done(
        self, built: Bundle, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        ran = edgetl("build", *flags(small_build), "--out", tmp_path / "out", "--dry-run")
        assert ran.code == 0
        assert [line.split(maxsplit=2)[1:] for line in ran.out.splitlines() if line.startswith("stage")] == [
            [stage, "done"] for stage in STAGES
        ]
        assert "30 train, 6 val, 0 test photos of 3 classes" in ran.out

    def test_json_is_one_object(self, built: Bundle, edgetl: Run, small_build: dict[str, Any], tmp_path: Path) -> None:
        out = tmp_path / "out"
        ran = edgetl("build", *flags(small_build, epochs=9), "--out", out, "--dry-run", "--json")
        assert ran.json == {
            "photos": {"train": 30, "val": 6, "test": 0},
            "labels": ["blue", "green", "red"],
            "builds": [
                {
                    "bundle": str(out), "target": "cpu", "engine": "onnxruntime", "precisions": ["int8", "fp32"],
                    "done": {stage: stage in BEFORE_EPOCHS for stage in STAGES},
                }
            ],
        }  # fmt: skip

    def test_it_lists_the_stages_that_are_to_do(
        self, built: Bundle, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        ran = edgetl("build", *flags(small_build, epochs=9), "--out", tmp_path / "out", "--dry-run")
        assert [line.split(maxsplit=2)[1:] for line in ran.out.splitlines() if line.startswith("stage")] == [
            [stage, "done" if stage in BEFORE_EPOCHS else "to do"] for stage in STAGES
        ]

    def test_it_writes_nothing(
        self,
        edgetl: Run,
        small_build: dict[str, Any],
        colours: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
        before = paths(colours)
        assert edgetl("build", *flags(small_build), "--out", tmp_path / "out", "--dry-run").code == 0
        assert paths(tmp_path) == []
        assert paths(colours) == before

    def test_it_finds_what_is_wrong(self, edgetl: Run, small_build: dict[str, Any], tmp_path: Path) -> None:
        ran = edgetl("build", *flags(small_build, target="cpus"), "--out", tmp_path / "out", "--dry-run")
        assert ran.code == 2
        assert "Did you mean cpu" in ran.err


class TestConfig:
    def test_a_config_file_is_read_and_a_flag_wins(
        self, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        config = tmp_path / "build.toml"
        lines = [
            f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}"
            for name, value in small_build.items()
        ]
        config.write_text("\n".join([*lines, f'out = "{tmp_path / "out"}"', 'target = "nowhere"']))
        ran = edgetl("build", "--config", config, "--target", "cpu", "--dry-run")
        assert ran.code == 0
        assert "target    cpu: onnxruntime, int8 or fp32" in ran.out

    def test_an_unknown_key_is_answered_with_the_nearest(self, edgetl: Run, tmp_path: Path) -> None:
        (tmp_path / "build.toml").write_text("epoch = 3\n")
        ran = edgetl("build", "--config", tmp_path / "build.toml")
        assert ran.code == 2
        assert "build.toml: unknown key 'epoch'. Did you mean epochs" in ran.err


class TestWrongInput:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"backbone": "torchvision/squeezenet"}, "unknown backbone 'torchvision/squeezenet'. Did you mean "),
            ({"backbone": "edgetl/nan"}, "Did you mean edgetl/nano"),
            ({"target": "cpus"}, "TargetError: unknown target 'cpus'. Did you mean cpu"),
            ({"recipe": "percentil"}, "RecipeError: unknown recipe 'percentil'. Did you mean percentile"),
            (
                {"fit": "stretch"},
                "SettingsError: --fit: Input should be 'auto', 'crop', 'squash' or 'pad', found 'stretch'",
            ),
            ({"head": "mpl"}, "SettingsError: --head: "),
            (
                {"views": 65},
                "SettingsError: --views: Input should be less than or equal to 64, found 65 (of each photo",
            ),
            (
                {"unfreeze": "last:0"},
                "SettingsError: --unfreeze: must be all, gradual, or last:N for the last N blocks",
            ),
            (
                {"unfreeze": "last:99"},
                "SettingsError: --unfreeze last:99: the network has 9 blocks, from features.0 to",
            ),
            ({"data": "nowhere"}, "DataError: nowhere: no such folder"),
            ({"weights": "none.pth"}, "BackboneError: --weights none.pth: no such file"),
            ({"golden": -1}, "SettingsError: --golden: "),
            ({"budget": 150}, "--budget: Input should be less than or equal to 100, found 150.0 (points that may"),
            ({"from_onnx": "a.onnx", "mean": "0.5,0.5"}, "--mean: must be three numbers, one a channel, such as"),
        ],
    )
    def test_what_is_wrong_is_told_in_a_line(
        self, changed: dict[str, Any], message: str, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        ran = edgetl("build", *flags(small_build, **changed), "--out", tmp_path / "out")
        assert (ran.code, ran.out) == (2, "")
        assert message in ran.err
        assert "Traceback" not in ran.err

    @pytest.fixture
    def photos(self, colours: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(colours, tmp_path / "photos"))

    def spoil(self, photos: Path, kind: str) -> None:
        if kind == "empty folder":
            shutil.rmtree(photos)
            photos.mkdir()
        elif kind == "one class":
            shutil.rmtree(photos / "red")
            shutil.rmtree(photos / "blue")
        elif kind == "empty class":
            (photos / "pink").mkdir()
        elif kind == "text":
            (photos / "red" / "text.jpg").write_text("I am a text")
        elif kind == "truncated":
            Image.effect_noise((64, 64), 50).save(photos / "red" / "half.jpg")
            (photos / "red" / "half.jpg").write_bytes((photos / "red" / "half.jpg").read_bytes()[:-400])
        else:
            frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
            frames[0].save(photos / "red" / "moving.gif", save_all=True, append_images=frames[1:])

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("empty folder", "no photos in class folders"),
            ("one class", "one class, 'green', but at least two are needed"),
            ("empty class", "pink: the class has no photos"),
            ("text", "red/text.jpg: not a picture in a format that is read"),
            ("truncated", "red/half.jpg: cannot be decoded"),
            ("animated", "red/moving.gif: holds 2 frames, but a still picture is needed"),
        ],
    )
    def test_photos_that_cannot_be_used_are_named_without_a_traceback(
        self, kind: str, message: str, photos: Path, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        self.spoil(photos, kind)
        ran = edgetl("build", *flags(small_build, data=photos), "--out", tmp_path / "out")
        assert (ran.code, ran.out) == (2, "")
        assert f"edgetl: DataError: {photos}" in ran.err
        assert message in ran.err
        assert "Traceback" not in ran.err
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_is_no_bundle_is_not_replaced(
        self, edgetl: Run, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("years of work")
        ran = edgetl("build", *flags(small_build), "--out", tmp_path / "out")
        assert ran.code == 2
        assert "exists and is no bundle, so it is not replaced" in ran.err

    def test_what_must_be_said_is_asked_for(self, edgetl: Run) -> None:
        ran = edgetl("build", "--out", "x")
        assert ran.code == 2
        assert ran.err == "edgetl: SettingsError: --data is missing: say it as a flag or in a --config file\n"
