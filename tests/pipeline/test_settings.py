"""Tests of edgetl/pipeline/settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgetl.errors import SettingsError
from edgetl.pipeline import BuildSettings, read_settings

FLAGS: dict[str, Any] = {"data": "photos", "out": Path("dist/a")}


def write(folder: Path, text: str) -> Path:
    (folder / "build.toml").write_text(text)
    return folder / "build.toml"


def test_what_is_not_said_is_the_default() -> None:
    settings = read_settings(None, FLAGS)
    assert settings == BuildSettings(data="photos", out=Path("dist/a"))
    assert (settings.backbone, settings.target, settings.fit, settings.golden) == ("edgetl/nano", "cpu", "auto", 8)


def test_a_config_file_has_the_names_of_the_flags(tmp_path: Path) -> None:
    config = write(tmp_path, 'data = "photos"\nout = "dist/a"\nepochs = 3\nimage_size = 64\nskip_bad = true\n')
    settings = read_settings(config, {})
    assert (settings.epochs, settings.image_size, settings.skip_bad) == (3, 64, True)


def test_a_flag_wins_over_the_config_file(tmp_path: Path) -> None:
    config = write(tmp_path, "epochs = 3\nseed = 5\n")
    settings = read_settings(config, {**FLAGS, "epochs": 7, "seed": None})
    assert (settings.epochs, settings.seed) == (7, 5)


def test_a_flag_of_zero_wins_too(tmp_path: Path) -> None:
    assert read_settings(write(tmp_path, "golden = 3\n"), {**FLAGS, "golden": 0}).golden == 0


def test_an_unknown_key_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"build\.toml: unknown key 'epoch'\. Did you mean epochs"):
        read_settings(write(tmp_path, "epoch = 3\n"), FLAGS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", -1), ("epochs", 10_001), ("image_size", 8),
        ("image_size", 4096), ("seed", -1), ("seed", 2**31), ("golden", -1), ("fit", "stretch"), ("device", "tpu"),
        ("epochs", "many"), ("data", ""), ("budget", -0.1), ("budget", 100.1), ("budget", float("nan")), ("qat", -1),
        ("layer_decay", 0.0), ("layer_decay", 1.1), ("layer_decay", float("nan")),
        ("head", "mpl"), ("views", -1), ("views", 65), ("batch", 1), ("accumulate", 0), ("schedule", "cosin"),
        ("augment", "heavy"), ("mixup", -0.1), ("cutmix", 11.0), ("label_smoothing", 1.0), ("balance", "even"),
        ("ema", 1.0), ("ema", float("nan")), ("clip", -1.0), ("patience", 0), ("amp", "int8"), ("compile", "perhaps"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named_with_what_is_allowed(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"^--{key.replace('_', '-')}: (Input|String) should .*, found "):
        read_settings(None, {**FLAGS, key: value})


@pytest.mark.parametrize("value", [0, "-0.1", 2.0, float("nan"), "fast", [0.1]])
def test_a_rate_is_a_share_or_is_looked_for(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"^--lr: must be above 0 and at most 1, or auto, found "):
        read_settings(None, {**FLAGS, "lr": value})


@pytest.mark.parametrize(("value", "rate"), [("0.01", 0.01), (1, 1.0), ("auto", "auto")])
def test_a_rate_may_be_typed(value: Any, rate: Any) -> None:
    assert read_settings(None, {**FLAGS, "lr": value}).lr == rate


@pytest.mark.parametrize("value", ["most", "last", "last:0", "last:-1", "last:2.5", "last:two", "gradual "])
def test_what_is_unfrozen_is_one_of_three(value: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^--unfreeze: must be all, gradual, or last:N for the last N blocks, found "
    ):
        read_settings(None, {**FLAGS, "unfreeze": value})


def test_a_wrong_flag_beside_a_config_file_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--epochs: Input should be greater than .* 0, found -2 \(of fine-tuning"):
        read_settings(write(tmp_path, "epochs = 3\n"), {**FLAGS, "epochs": -2})


def test_a_wrong_value_in_a_config_file_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"build\.toml: epochs: Input should be greater than .* 0, found -2"):
        read_settings(write(tmp_path, "epochs = -2\n"), FLAGS)


@pytest.mark.parametrize("key", ["data", "out"])
def test_what_must_be_said_is_asked_for(key: str) -> None:
    said = {name: value for name, value in FLAGS.items() if name != key}
    with pytest.raises(SettingsError, match=rf"--{key} is missing: say it as a flag or in a --config file"):
        read_settings(None, said)


def test_a_config_file_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: no such file"):
        read_settings(tmp_path / "none.toml", FLAGS)


def test_a_config_file_that_is_no_toml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"build\.toml: not TOML: "):
        read_settings(write(tmp_path, "epochs: 3\n"), FLAGS)
