"""Tests of edgetl/bench/detect.py, on trees of files as each device has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgetl.bench import Detected, detect, fit, is_of_kind
from edgetl.target import load_target

ORIN: dict[str, Any] = {
    "cpu": "ARMv8 Processor rev 1 (v8l)", "architecture": "aarch64", "cores": 6, "memory_mb": 7620,
    "flags": ("asimddp",), "board": "NVIDIA Jetson Orin Nano Developer Kit", "jetson_linux": "36.4.3",
    "gpu": "Orin, SM 8.7",
    "engines": {"onnxruntime": ("cpu",), "openvino": (), "tensorrt": ("cuda",)},
    "versions": {"python": "3.10.12", "onnxruntime": "1.23.0", "tensorrt": "10.3.0"},
}  # fmt: skip
PI: dict[str, Any] = {
    **ORIN, "board": "Raspberry Pi 5 Model B Rev 1.0", "jetson_linux": None, "gpu": None, "memory_mb": 8062,
    "engines": {"onnxruntime": ("cpu",), "openvino": (), "tensorrt": ()},
    "versions": {"python": "3.11.2", "onnxruntime": "1.23.0"},
}  # fmt: skip


def fits(target: str, machine: dict[str, Any], **changed: Any) -> Any:
    return fit(load_target(target), Detected(**{**machine, **changed}))


def tree(root: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_DT_", "device-tree")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


class TestDetect:
    def test_a_jetson_is_read_from_its_device_tree_and_release(self, tmp_path: Path) -> None:
        found = detect(
            tree(
                tmp_path,
                **{"proc__device-tree__model": b"NVIDIA Jetson Orin Nano Developer Kit\0"},
                etc__nv_tegra_release=b"# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
                proc__meminfo=b"MemTotal:        7802784 kB\nMemFree: 1 kB\n",
                proc__cpuinfo=b"processor : 0\nFeatures : fp asimd asimddp\nmodel name : ARMv8 Processor\n",
            )
        )
        assert (found.board, found.jetson_linux) == ("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3")
        assert (found.memory_mb, found.cpu, found.flags) == (7619, "ARMv8 Processor", ("asimddp",))

    def test_a_pc_has_neither(self, tmp_path: Path) -> None:
        found = detect(tree(tmp_path, proc__meminfo=b"MemTotal: 1024 kB\n"))
        assert (found.board, found.jetson_linux, found.memory_mb) == (None, None, 1)

    def test_this_machine_says_its_engines(self) -> None:
        pytest.importorskip("onnxruntime", reason="the engine onnxruntime is not installed here")
        found = detect()
        assert "cpu" in found.engines["onnxruntime"]
        assert found.versions["onnxruntime"][0].isdigit()
        assert fit(load_target("cpu"), found).fits
        assert is_of_kind(load_target("cpu"))


class TestFit:
    def test_a_jetson_with_all_it_needs_fits(self) -> None:
        assert fits("jetson", ORIN).model_dump() == {
            "target": "jetson-orin-nano", "fits": True, "wrong": (), "missing": (),
        }  # fmt: skip
        assert fits("arm64", ORIN).fits

    @pytest.mark.parametrize(
        ("target", "machine", "changed", "reason"),
        [
            ("raspberry-pi-5", ORIN, {}, "needs a Raspberry Pi 5, this is NVIDIA Jetson Orin Nano Developer Kit"),
            ("jetson", PI, {}, "needs a Jetson Orin Nano, this is Raspberry Pi 5 Model B Rev 1.0"),
            ("x86-server", PI, {}, "needs x86_64, this is aarch64"),
            ("raspberry-pi-5", PI, {"memory_mb": 1000}, "needs 2048 MB of memory, this has 1000 MB"),
            ("jetson", ORIN, {"gpu": None}, "needs an NVIDIA GPU, and none can be used here"),
            ("jetson", ORIN, {"jetson_linux": "36.3.0"}, "needs JetPack 6.1 (Jetson Linux 36.4), this is Jetson Linux"),
            ("jetson", ORIN, {"jetson_linux": "35.4.1"}, "needs JetPack 6.1 (Jetson Linux 36.4), this is Jetson Linux"),
        ],
    )
    def test_another_machine_does_not(self, target: str, machine: Any, changed: Any, reason: str) -> None:
        found = fits(target, machine, **changed)
        assert not found.fits
        assert any(each.startswith(reason) for each in found.wrong)

    @pytest.mark.parametrize(
        ("target", "machine", "changed", "reason"),
        [
            ("jetson", ORIN, {"versions": {"python": "3.10.1"}}, "tensorrt 10.3 or newer (none here)"),
            ("jetson", ORIN, {"versions": {"python": "3.9.1", "tensorrt": "10.3"}}, "python 3.10 or newer (3.9.1)"),
            (
                "raspberry-pi-5",
                PI,
                {"versions": {"python": "3.11", "onnxruntime": "1.9.0"}},
                "onnxruntime 1.20 or newer",
            ),
            ("raspberry-pi-5", PI, {"engines": {"onnxruntime": ()}}, "onnxruntime on cpu"),
        ],
    )
    def test_what_can_be_added_is_said_to_be_missing(
        self, target: str, machine: Any, changed: Any, reason: str
    ) -> None:
        found = fits(target, machine, **changed)
        assert (found.fits, found.wrong) == (False, ())
        assert any(each.startswith(reason) for each in found.missing)
