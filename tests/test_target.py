"""Tests of edgetl/target.py and of every shipped target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgetl.compile import COMPILERS
from edgetl.errors import TargetError
from edgetl.target import ENGINE_KINDS, TargetProfile, load_target, target_names

FOLDER = Path(__file__).parents[1] / "targets"
TARGET = """\
schema = 1
name = "mine"
description = "The box under my desk"

[engine]
name = "onnxruntime"
precisions = ["int8", "fp32"]
threads = 2

[budget]
accuracy_drop_points = 0.5
latency_ms_p50 = 12.5
size_bytes = 4000000
"""


def load(folder: Path, text: str) -> TargetProfile:
    (folder / "mine.toml").write_text(text)
    return load_target(str(folder / "mine.toml"))


def test_every_file_in_the_folder_is_a_target() -> None:
    assert target_names() == tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
    assert "cpu" in target_names()


@pytest.mark.parametrize("name", target_names())
def test_a_shipped_target_loads_under_the_name_of_its_file(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.description


@pytest.mark.parametrize("name", target_names())
def test_a_shipped_target_says_where_its_figures_come_from_and_what_the_device_must_have(name: str) -> None:
    target = load_target(name)
    assert target.source != "not said"
    assert any(each.startswith("python>=") for each in target.device.requires)
    measured = target.budget.latency_ms_p50 is None or "not measured" in target.source
    assert measured, "a latency that nobody measured must be called a wish"


@pytest.mark.parametrize(
    "name",
    ["cpu", "x86-server", "arm64", "raspberry-pi-4", "raspberry-pi-5", "intel-cpu", "intel-igpu", "intel-npu", "cuda",
     "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "nvidia-gpu"],
)  # fmt: skip
def test_the_device_is_known(name: str) -> None:
    assert load_target(name).name == name


def test_an_alias_is_another_name_of_the_same() -> None:
    assert load_target("jetson") == load_target("jetson-orin-nano")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("jetson-nano", r"the Jetson Nano ends at JetPack 4\.6 with TensorRT 8\.2: strongly typed networks need"),
        ("jetson-tx2", r"the Jetson TX2 ends at JetPack 4\.6"),
        ("jetson-xavier", r"the Jetson Xavier ends at JetPack 5\.1 with TensorRT 8\.5"),
        ("jetson-agx-xavier", r"the Jetson AGX Xavier ends at JetPack 5\.1"),
        ("jetpack-5.1", r"strongly typed networks need TensorRT 10, which comes with JetPack 6\.1 and newer"),
        ("jetpack6.0", r"strongly typed networks need TensorRT 10"),
    ],
)
def test_a_device_that_cannot_be_served_is_refused_by_name_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(TargetError, match=rf"{re.escape(name)} is not supported: {reason}.*--target jetson"):
        load_target(name)


def test_a_jetpack_that_is_new_enough_is_no_target_but_not_refused() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'jetpack-6\.2'"):
        load_target("jetpack-6.2")


class TestOwnTargets:
    @pytest.fixture
    def own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        (tmp_path / "edgetl" / "targets").mkdir(parents=True)
        return tmp_path / "edgetl" / "targets"

    def test_one_in_the_users_folder_is_known_by_its_name_and_aliases(self, own: Path) -> None:
        (own / "mine.toml").write_text(TARGET.replace("schema = 1\n", 'schema = 1\naliases = ["box"]\n'))
        assert "mine" in target_names()
        assert load_target("mine").description == load_target("box").description == "The box under my desk"

    def test_it_goes_before_one_of_the_same_name_that_comes_with_edgetl(self, own: Path) -> None:
        (own / "cpu.toml").write_text(TARGET.replace('"mine"', '"cpu"'))
        assert load_target("cpu").description == "The box under my desk"

    def test_one_that_goes_by_another_name_than_its_files_is_refused(self, own: Path) -> None:
        (own / "bench.toml").write_text(TARGET)
        with pytest.raises(TargetError, match=r"bench\.toml: says name = 'mine', but a file in this folder goes by"):
            load_target("bench")

    def test_one_that_cannot_be_read_is_named_and_does_not_disturb_others(self, own: Path) -> None:
        (own / "broken.toml").write_text("schema: 1")
        assert load_target("jetson").name == "jetson-orin-nano"
        with pytest.raises(TargetError, match=r"targets/broken\.toml: not TOML"):
            load_target("broken")


def test_every_engine_that_is_compiled_for_says_what_it_builds() -> None:
    assert set(ENGINE_KINDS) == set(COMPILERS)


def test_a_file_of_the_users_is_read(tmp_path: Path) -> None:
    target = load(tmp_path, TARGET)
    assert (target.name, target.engine.precisions, target.engine.threads) == ("mine", ("int8", "fp32"), 2)
    assert (target.budget.latency_ms_p50, target.budget.size_bytes) == (12.5, 4_000_000)


def test_what_a_target_leaves_out_is_unbounded(tmp_path: Path) -> None:
    text = TARGET.replace("threads = 2\n", "").replace("latency_ms_p50 = 12.5\nsize_bytes = 4000000\n", "")
    target = load(tmp_path, text)
    assert (target.engine.threads, target.budget.latency_ms_p50, target.budget.size_bytes) == (0, None, None)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'cpus'\. Did you mean .*cpu.*\? .* \./my-target\.toml"):
        load_target("cpus")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"gone\.toml: no such file"):
        load_target(str(tmp_path / "gone.toml"))


def test_what_is_not_toml_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"mine\.toml: not TOML"):
        load(tmp_path, "schema: 1")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("threads = 2", "thread = 2", r"unknown key 'engine\.thread'\. Did you mean threads\?"),
        ("latency_ms_p50", "latency_p50", r"unknown key 'budget\.latency_p50'\. Did you mean latency_ms_p50"),
        ("[budget]", "[budgets]", r"unknown key 'budgets'\. Did you mean budget"),
        ("schema = 1\n", "", r"schema is missing"),
        ("schema = 1", "schema = 2", r"schema: Input should be 1, found 2"),
        ('"mine"', '"My Box"', r"name: String should match pattern .*, found 'My Box'"),
        ('"onnxruntime"', '"tflite"', r"engine\.name: Input should be .*, found 'tflite'"),
        ('["int8", "fp32"]', "[]", r"engine\.precisions: .*at least 1 item"),
        ('["int8", "fp32"]', '["int4"]', r"engine\.precisions\.0: Input should be .*'int8'.*, found 'int4'"),
        ('"int8", ', '"fp32", ', r'engine: precisions holds "fp32" twice; each is tried once'),
        ('"int8", ', '"bf16", ', r'engine: precisions holds "bf16", but onnxruntime here builds int8, fp16 or fp32'),
        ("threads = 2", 'device = "npu"', r'engine: device is "npu", but onnxruntime here runs on cpu or cuda'),
        (
            '"onnxruntime"\nprecisions = ["int8", ',
            '"openvino"\ndevice = "gpu"\nprecisions = ["bf16", ',
            r'engine: precisions holds "bf16", which is for CPUs, but device is "gpu": fp16 is its own',
        ),
        ("threads = 2", "batch_sizes = []", r"engine\.batch_sizes: .*at least 1 item"),
        ("threads = 2", "batch_sizes = [0]", r"engine\.batch_sizes\.0: .*greater than or equal to 1"),
        ("threads = 2", 'hint = "speed"', r"engine\.hint: Input should be 'latency' or 'throughput'"),
        (
            "[budget]",
            '[device]\nrequires = ["cuda"]\n[budget]',
            r'device: requires holds "cuda", but each must be like',
        ),
        ("[budget]", '[device]\narch = "x"\n[budget]', r"unknown key 'device\.arch'\. Did you mean architecture"),
        ("threads = 2", "threads = -1", r"engine\.threads: .*greater than or equal to 0, found -1"),
        ("drop_points = 0.5", "drop_points = -1.0", r"budget\.accuracy_drop_points: .*, found -1\.0"),
        ("size_bytes = 4000000", "size_bytes = 0", r"budget\.size_bytes: Input should be greater than 0, found 0"),
    ],
)
def test_a_target_that_says_something_impossible_is_refused(
    before: str, after: str, message: str, tmp_path: Path
) -> None:
    assert before in TARGET
    with pytest.raises(TargetError, match=rf"mine\.toml: {message}"):
        load(tmp_path, TARGET.replace(before, after))
