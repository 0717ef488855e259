"""Tests of edgetl/backbones/weights_file.py."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgetl.backbones.weights_file import fit_weights, read_weights
from edgetl.errors import BackboneError

STATE = {"first.weight": torch.arange(6.0).view(2, 3), "first.count": torch.tensor(7)}


class Network(nn.Sequential):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, classes)


class Malicious:
    """Touches a file when it is unpickled by a reader that runs what it reads."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class TestReadWeights:
    def test_a_safetensors_file_is_read(self, tmp_path: Path) -> None:
        save_file(STATE, tmp_path / "a.safetensors")
        assert same(read_weights(tmp_path / "a.safetensors"), STATE)

    @pytest.mark.parametrize("suffix", [".pth", ".pt"])
    def test_a_state_dict_that_torch_saved_is_read(self, suffix: str, tmp_path: Path) -> None:
        torch.save(STATE, tmp_path / f"a{suffix}")
        assert same(read_weights(tmp_path / f"a{suffix}"), STATE)

    def test_a_state_dict_of_the_time_before_zip_files_is_read(self, tmp_path: Path) -> None:
        torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        assert same(read_weights(tmp_path / "a.pth"), STATE)

    @pytest.mark.parametrize("wrapper", ["state_dict", "model"])
    def test_a_state_dict_inside_a_checkpoint_is_found(self, wrapper: str, tmp_path: Path) -> None:
        torch.save({wrapper: STATE, "epoch": 3}, tmp_path / "a.pth")
        assert same(read_weights(tmp_path / "a.pth"), STATE)

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_float_types_become_float32_and_whole_numbers_stay(self, kind: torch.dtype, tmp_path: Path) -> None:
        save_file({"weight": torch.tensor([0.5], dtype=kind), "count": torch.tensor(7)}, tmp_path / "a.safetensors")
        state = read_weights(tmp_path / "a.safetensors")
        assert (state["weight"].dtype, state["weight"].item()) == (torch.float32, 0.5)
        assert state["count"].dtype == torch.int64

    def test_another_suffix_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BackboneError, match=r"a\.h5: weights are read from \.safetensors, \.pth or \.pt files"):
            read_weights(tmp_path / "a.h5")

    @pytest.mark.parametrize("whole", [True, False])
    def test_code_in_a_pickle_is_refused_and_not_run(self, whole: bool, tmp_path: Path) -> None:
        canary = tmp_path / "canary"
        trap = {"first.weight": Malicious(canary)}
        if whole:
            torch.save(trap, tmp_path / "a.pth")
        else:
            (tmp_path / "a.pth").write_bytes(pickle.dumps(trap))
        with pytest.raises(BackboneError, match=r"more than names and tensors, which is not read because it could run"):
            read_weights(tmp_path / "a.pth")
        assert not canary.exists()

    def test_the_trap_of_the_test_above_works(self, tmp_path: Path) -> None:
        pickle.loads(pickle.dumps(Malicious(tmp_path / "canary")))
        assert (tmp_path / "canary").exists()

    def test_a_whole_module_is_refused_with_what_to_save_instead(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
        with pytest.raises(
            BackboneError, match=r"Save the state dict alone: torch\.save\(model\.state_dict\(\), path\)"
        ):
            read_weights(tmp_path / "a.pth")

    @pytest.mark.parametrize("content", [b"", b"I am a text, not weights", bytes(64), bytes(range(256))])
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_junk_is_refused(self, content: bytes, suffix: str, tmp_path: Path) -> None:
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(BackboneError, match=rf"a{suffix}: (cannot be read as weights: |is damaged, or holds more)"):
            read_weights(tmp_path / f"a{suffix}")

    @pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
    def test_a_damaged_file_is_read_or_refused_but_never_crashes(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
        if kind == "safetensors":
            save_file(STATE, path)
        else:
            torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
        whole, draw = path.read_bytes(), random.Random(5)
        for _ in range(150):
            spoilt = bytearray(whole)
            for _ in range(draw.choice([1, 3, 10])):
                spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
            path.write_bytes(spoilt[: draw.randrange(len(spoilt))] if draw.random() < 0.3 else spoilt)
            try:
                state = read_weights(path)
            except BackboneError:
                continue
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())

    @pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, {1: torch.zeros(2)}, torch.zeros(2)])
    def test_a_file_without_names_and_tensors_is_refused(self, content: Any, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(BackboneError, match=r"a\.pth: holds no state dict \(names and tensors\)"):
            read_weights(tmp_path / "a.pth")


class TestFitWeights:
    def test_all_values_arrive(self) -> None:
        network, other = Network(), Network()
        fit_weights(network, other.state_dict(), optional="head", where="here")
        assert same(dict(network.state_dict()), dict(other.state_dict()))

    def test_a_head_of_another_class_count_is_left_as_it_is(self) -> None:
        network, other = Network(classes=4), Network(classes=9)
        before = network.head.weight.clone()
        fit_weights(network, other.state_dict(), optional="head", where="here")
        assert torch.equal(network.head.weight, before)
        assert torch.equal(network.first.weight, other.first.weight)

    def test_a_head_may_be_missing(self) -> None:
        state = {name: tensor for name, tensor in Network().state_dict().items() if not name.startswith("head")}
        fit_weights(Network(), state, optional="head", where="here")

    def test_counts_of_batches_may_be_missing(self) -> None:
        state = {name: t for name, t in Network().state_dict().items() if not name.endswith("num_batches_tracked")}
        fit_weights(Network(), state, optional="head", where="here")

    def test_missing_and_unknown_names_are_named(self) -> None:
        state = Network().state_dict()
        state["second.weight"] = state.pop("first.weight")
        with pytest.raises(
            BackboneError,
            match=r"^here: these weights are of another network\. missing: first\.weight; unknown: second\.",
        ):
            fit_weights(Network(), state, optional="head", where="here")

    def test_other_shapes_are_named(self) -> None:
        state = Network().state_dict()
        state["first.weight"] = torch.zeros(2, 5)
        with pytest.raises(BackboneError, match=r"other shapes: first\.weight is \(2, 5\), wanted \(2, 3\)$"):
            fit_weights(Network(), state, optional="head", where="here")

    def test_of_many_differences_the_first_four_are_named(self) -> None:
        with pytest.raises(BackboneError, match=r"missing: first\.weight, first\.bias, .*, norm\.bias and 2 more$"):
            fit_weights(Network(), {}, optional="head", where="here")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_not_finite_are_refused(self, value: float) -> None:
        state = Network().state_dict()
        state["norm.weight"][0] = value
        with pytest.raises(BackboneError, match=r"here: norm\.weight holds values that are not finite"):
            fit_weights(Network(), state, optional="head", where="here")

    def test_a_network_that_is_refused_weights_keeps_its_own(self) -> None:
        network = Network()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        state = Network().state_dict()
        state["norm.weight"][0] = float("nan")
        with pytest.raises(BackboneError, match="not finite"):
            fit_weights(network, state, optional="head", where="here")
        assert same(dict(network.state_dict()), before)
