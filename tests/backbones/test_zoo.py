"""Tests of edgetl/backbones/zoo.py."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import SqueezeNet1_1_Weights, get_model

from edgetl.backbones import Backbone, backbone_names, choose_weights, load_backbone
from edgetl.backbones.zoo import NANO_WEIGHTS
from edgetl.errors import BackboneError, MissingError

SQUEEZENET, MOBILENET = "torchvision/squeezenet1_1", "torchvision/mobilenet_v3_small"
needs_nano = pytest.mark.skipif(not NANO_WEIGHTS.is_file(), reason=f"needs {NANO_WEIGHTS.name}, still in training")


@pytest.fixture(scope="module")
def squeezenet() -> nn.Module:
    """Return a whole squeezenet1_1 with other random weights than `random` draws with seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        return get_model("squeezenet1_1", weights=None).eval()


@pytest.fixture
def photos() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def load(name: str, weights: str | Path | None, side: int | None = 64, seed: int = 0) -> Backbone:
    return load_backbone(name, choose_weights(name, None if weights is None else str(weights), seed), side, seed)


def headless(squeezenet: nn.Module, photos: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.relu(squeezenet.features(photos)).mean(dim=(2, 3))  # type: ignore[operator]


class TestNames:
    def test_the_embedded_one_comes_first(self) -> None:
        assert backbone_names()[0] == "edgetl/nano"

    def test_torchvisions_classification_models_are_there_and_no_others(self) -> None:
        assert {SQUEEZENET, MOBILENET, "torchvision/resnet18", "torchvision/vit_b_16"} <= set(backbone_names())
        assert not {"torchvision/fcn_resnet50", "torchvision/raft_small", "torchvision/r3d_18"} & set(backbone_names())

    @pytest.mark.parametrize("name", ["torchvision/resnet81", "resnet18", "torchvision/resnet_18"])
    def test_an_unknown_one_is_answered_with_the_nearest(self, name: str) -> None:
        with pytest.raises(BackboneError, match=rf"unknown backbone '{name}'\. Did you mean .*torchvision/resnet18"):
            choose_weights(name, "random", seed=0)

    def test_loading_checks_the_name_too(self) -> None:
        choice = choose_weights(SQUEEZENET, "random", seed=0)
        with pytest.raises(BackboneError, match=r"unknown backbone 'edgetl/nana'\. Did you mean edgetl/nano"):
            load_backbone("edgetl/nana", choice)


class TestChooseWeights:
    def test_random_ones_are_known_by_their_seed(self) -> None:
        choice = choose_weights(SQUEEZENET, "random", seed=5)
        assert (choice.kind, choice.record.identity) == ("random", "seed 5")

    def test_a_file_is_known_by_its_content(self, tmp_path: Path) -> None:
        (tmp_path / "w.safetensors").write_bytes(b"abc")
        choice = choose_weights(SQUEEZENET, str(tmp_path / "w.safetensors"), seed=0)
        assert choice.kind == "file"
        assert choice.record.source == "w.safetensors"
        assert choice.record.identity == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"

    def test_a_file_that_does_not_exist_is_an_error_that_says_what_to_give(self, tmp_path: Path) -> None:
        with pytest.raises(BackboneError, match=r"--weights .*none\.pth: no such file\. Give a .* file, or `random`"):
            choose_weights(SQUEEZENET, str(tmp_path / "none.pth"), seed=0)

    def test_without_a_word_torchvisions_own_are_taken_and_their_licence_is_named(self) -> None:
        choice = choose_weights(SQUEEZENET, None, seed=0)
        assert choice.kind == "download"
        assert choice.record.identity == SqueezeNet1_1_Weights.DEFAULT.url
        assert "BSD-3-Clause" in choice.record.licence


class TestRandomWeights:
    def test_the_same_seed_draws_the_same(self, photos: torch.Tensor) -> None:
        first, second = load(SQUEEZENET, "random", seed=3), load(SQUEEZENET, "random", seed=3)
        assert torch.equal(first.module(photos), second.module(photos))

    def test_another_seed_draws_others(self, photos: torch.Tensor) -> None:
        first, second = load(SQUEEZENET, "random", seed=3), load(SQUEEZENET, "random", seed=4)
        assert not torch.equal(first.module(photos), second.module(photos))

    def test_the_global_generator_is_left_alone(self) -> None:
        before = torch.random.get_rng_state()
        load(SQUEEZENET, "random")
        assert torch.equal(torch.random.get_rng_state(), before)


class TestWeightsFromAFile:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_the_network_answers_as_the_one_that_was_saved(
        self, suffix: str, squeezenet: nn.Module, photos: torch.Tensor, tmp_path: Path
    ) -> None:
        path = tmp_path / f"w{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(squeezenet.state_dict(), path)
        backbone = load(SQUEEZENET, path)
        with torch.inference_mode():
            assert torch.equal(backbone.module(photos), headless(squeezenet, photos))

    def test_halves_are_widened(self, squeezenet: nn.Module, photos: torch.Tensor, tmp_path: Path) -> None:
        save_file({name: t.half() for name, t in squeezenet.state_dict().items()}, tmp_path / "w.safetensors")
        answer = load(SQUEEZENET, tmp_path / "w.safetensors").module(photos)
        assert answer.dtype == torch.float32
        torch.testing.assert_close(answer, headless(squeezenet, photos), rtol=0.02, atol=0.02)

    def test_a_head_of_another_class_count_is_fine(self, photos: torch.Tensor, tmp_path: Path) -> None:
        other = get_model("squeezenet1_1", weights=None, num_classes=6).eval()
        save_file(other.state_dict(), tmp_path / "w.safetensors")
        assert torch.equal(load(SQUEEZENET, tmp_path / "w.safetensors").module(photos), headless(other, photos))

    def test_weights_of_another_architecture_name_the_first_keys_that_differ(self, tmp_path: Path) -> None:
        save_file(get_model("shufflenet_v2_x0_5", weights=None).state_dict(), tmp_path / "w.safetensors")
        with pytest.raises(
            BackboneError,
            match=r"^torchvision/squeezenet1_1: w\.safetensors: these weights are of another network\. "
            r"missing: features\.0\.weight, features\.0\.bias, .* more; unknown: conv1\.0\.weight, .* more",
        ):
            load(SQUEEZENET, tmp_path / "w.safetensors")

    def test_weights_of_another_width_name_the_shapes(self, tmp_path: Path) -> None:
        save_file(get_model("shufflenet_v2_x1_0", weights=None).state_dict(), tmp_path / "w.safetensors")
        with pytest.raises(BackboneError, match=r"other shapes: stage2\.0\.\S+ is \(.*\), wanted \(.*\)"):
            load("torchvision/shufflenet_v2_x0_5", tmp_path / "w.safetensors")

    def test_values_that_are_not_finite_are_refused(self, squeezenet: nn.Module, tmp_path: Path) -> None:
        state = {name: tensor.clone() for name, tensor in squeezenet.state_dict().items()}
        state["features.0.bias"][0] = float("nan")
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(BackboneError, match=r"features\.0\.bias holds values that are not finite"):
            load(SQUEEZENET, tmp_path / "w.safetensors")

    def test_the_weights_of_imagenet_fit(self, assets: Path) -> None:
        path = assets / "weights" / "squeezenet1_1-imagenet1k.safetensors"
        if not path.is_file():
            pytest.skip(f"needs real weights: no file {path}")
        assert load(SQUEEZENET, path).features == 512


class TestPreprocess:
    def test_photos_are_wanted_as_the_weights_were_trained(self) -> None:
        how = load(MOBILENET, "random", side=None).preprocess
        assert (how.side, how.fit, how.crop_share) == (224, "crop", 224 / 256)

    def test_the_mean_is_whole_255ths(self) -> None:
        how = load(MOBILENET, "random").preprocess
        assert how.mean == (124, 116, 104)
        assert how.std == pytest.approx((58.395, 57.12, 57.375))

    def test_the_users_side_wins(self) -> None:
        assert load(MOBILENET, "random", side=48).preprocess.side == 48

    @pytest.mark.parametrize(
        ("name", "side", "reason"),
        [("torchvision/alexnet", 32, "Output size is too small"), ("torchvision/vit_b_16", 40, "indivisible by patch")],
    )
    def test_a_side_that_the_network_cannot_read_is_an_error_with_one_that_it_can(
        self, name: str, side: int, reason: str
    ) -> None:
        said = rf"^{name}: cannot read photos of {side}x{side} pixels \(.*{reason}.*\)\. Set --image-size 224"
        with pytest.raises(BackboneError, match=said):
            load(name, "random", side=side)

    def test_a_vision_transformers_weights_serve_photos_of_another_side(self, tmp_path: Path) -> None:
        whole = get_model("vit_b_16", weights=None, image_size=48)
        torch.save(whole.state_dict(), tmp_path / "vit.pth")
        backbone = load("torchvision/vit_b_16", tmp_path / "vit.pth", side=32)
        with torch.inference_mode():
            assert backbone.module(torch.zeros(2, 3, 32, 32)).shape == (2, 768)
        assert torch.equal(backbone.module.encoder.layers[3].mlp[0].weight, whole.encoder.layers[3].mlp[0].weight)  # type: ignore[union-attr,index]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class TestDownload:
    @pytest.fixture(autouse=True)
    def _own_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("no_proxy", "*")

    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[tuple[Path, str]]:
        """Yield a folder and the loopback address at which it is served."""
        folder = tmp_path / "served"
        folder.mkdir()
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield folder, f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()

    def test_what_torchvision_serves_is_loaded(
        self,
        served: tuple[Path, str],
        squeezenet: nn.Module,
        photos: torch.Tensor,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder, address = served
        torch.save(squeezenet.state_dict(), folder / "w.pth")
        name = f"w-{hashlib.sha256((folder / 'w.pth').read_bytes()).hexdigest()[:8]}.pth"
        (folder / "w.pth").rename(folder / name)
        monkeypatch.setattr(SqueezeNet1_1_Weights.DEFAULT.value, "url", f"{address}/{name}")
        backbone = load(SQUEEZENET, None)
        assert torch.equal(backbone.module(photos), headless(squeezenet, photos))
        assert (tmp_path / "hub" / "hub" / "checkpoints" / name).is_file()

    def test_a_damaged_download_is_an_error(
        self, served: tuple[Path, str], squeezenet: nn.Module, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, address = served
        torch.save(squeezenet.state_dict(), folder / "w-00000000.pth")
        monkeypatch.setattr(SqueezeNet1_1_Weights.DEFAULT.value, "url", f"{address}/w-00000000.pth")
        with pytest.raises(
            MissingError, match=r"the download of http://\S+ is damaged \(.*invalid hash.*\)\. Try again"
        ):
            load(SQUEEZENET, None)

    def test_a_file_that_is_not_served_is_an_error(
        self, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(SqueezeNet1_1_Weights.DEFAULT.value, "url", f"{served[1]}/w-00000000.pth")
        with pytest.raises(MissingError, match=r"its weights cannot be downloaded from http://\S+ \(HTTP Error 404"):
            load(SQUEEZENET, None)

    def test_offline_is_an_error_that_says_what_to_type(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound but not listening, so every connection is refused
            address = f"http://127.0.0.1:{closed.getsockname()[1]}/w-00000000.pth"
            monkeypatch.setattr(SqueezeNet1_1_Weights.DEFAULT.value, "url", address)
            with pytest.raises(
                MissingError,
                match=r"^torchvision/squeezenet1_1: its weights cannot be downloaded from http://127\.0\.0\.1:\d+/\S+ "
                r"\(.*refused.*\)\. Give a file .* --weights FILE, use --backbone edgetl/nano, .* --weights random",
            ):
                load(SQUEEZENET, None)


class TestNano:
    @needs_nano
    def test_it_needs_no_download_and_gives_features(self) -> None:
        backbone = load("edgetl/nano", None, side=None)
        assert backbone.preprocess.side == 96
        assert backbone.module(torch.zeros(2, 3, 96, 96)).shape == (2, backbone.features)

    @needs_nano
    def test_its_weights_are_at_most_a_megabyte(self) -> None:
        assert NANO_WEIGHTS.stat().st_size <= 1_000_000

    @needs_nano
    def test_its_licence_and_content_are_named(self) -> None:
        record = choose_weights("edgetl/nano", None, seed=0).record
        assert record.licence == "Apache-2.0"
        assert record.identity == f"sha256:{hashlib.sha256(NANO_WEIGHTS.read_bytes()).hexdigest()}"

    def test_it_can_start_from_random_weights(self) -> None:
        assert load("edgetl/nano", "random", side=32).module(torch.zeros(1, 3, 32, 32)).shape == (1, 1280)


@pytest.mark.slow
class TestFamilies:
    @pytest.mark.parametrize(
        ("name", "features"),
        [
            ("resnet18", 512),
            ("vgg11", 4096),
            ("densenet121", 1024),
            ("efficientnet_b0", 1280),
            ("convnext_tiny", 768),
            ("regnet_x_400mf", 400),
            ("shufflenet_v2_x0_5", 1024),
            ("mnasnet0_5", 1280),
            ("mobilenet_v2", 1280),
            ("alexnet", 4096),
            ("swin_t", 768),
            ("vit_b_16", 768),
            ("googlenet", 1024),
            ("inception_v3", 2048),
            ("resnext50_32x4d", 2048),
            ("maxvit_t", 512),
        ],
    )
    def test_a_network_without_its_head_gives_features_of_the_declared_width(self, name: str, features: int) -> None:
        backbone = load(f"torchvision/{name}", "random", side=None)
        side = backbone.preprocess.side
        with torch.inference_mode():
            assert backbone.module(torch.zeros(2, 3, side, side)).shape == (2, backbone.features)
        assert backbone.features == features

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_the_extra_classifiers_of_a_file_are_passed_over(self, name: str, tmp_path: Path) -> None:
        whole = get_model(name, weights=None, aux_logits=True, init_weights=False)
        save_file(whole.state_dict(), tmp_path / "w.safetensors")
        assert load(f"torchvision/{name}", tmp_path / "w.safetensors", side=None).preprocess.mean == (128, 128, 128)
