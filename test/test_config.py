"""Training configurations are strict: what is shipped loads, what is wrong is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from structpose_ros.training.config import ConfigError, TrainingConfig, load_config, parse_config

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "config" / "training").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path) -> None:
    assert isinstance(load_config(path), TrainingConfig)


def test_there_are_the_promised_ones() -> None:
    assert {"paper", "cpu", "landmarks"} <= {path.stem for path in SHIPPED}


def test_the_papers_values() -> None:
    config = load_config(ROOT / "config" / "training" / "paper.yaml")
    assert (config.input.width, config.input.height) == (640, 480)
    assert config.network.backbone == "resnet34"
    geometry, pose = config.geometry, config.pose
    assert (geometry.epochs, geometry.learning_rate, geometry.schedule) == (50, 1e-4, "step")
    assert (geometry.step_epochs, geometry.step_factor, geometry.half_depth_weight) == (20, 0.1, 0.5)
    assert not geometry.validity_mask
    assert (pose.epochs, pose.weight_learning_rate, pose.learning_rate) == (10, 1e-3, 1e-6)
    assert pose.update_geometry
    assert pose.correspondence_weighting
    assert config.alignment.robust_rounds == 0
    off = config.augmentation
    assert (off.photometric, off.roll_degrees, off.tilt_degrees, off.scale_low, off.scale_high) == (
        False,
        0,
        0,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "epoch: unknown key, expected one of alignment, augmentation"),
        ({"geometry": {"lr": 1}}, "geometry.lr: unknown key, expected one of epochs"),
        ({"geometry": {"epochs": "many"}}, "geometry.epochs: expected int, got 'many'"),
        ({"geometry": {"epochs": 0}}, "geometry.epochs: expected 1 .. 100000, got 0"),
        ({"geometry": {"epochs": True}}, "geometry.epochs: expected int, got True"),
        ({"geometry": {"learning_rate": float("nan")}}, "geometry.learning_rate: expected float, got nan"),
        (
            {"geometry": {"schedule": "cosine"}},
            "geometry.schedule: expected one of step, onecycle, got 'cosine'",
        ),
        ({"input": {"width": 330}}, "input.width: expected a multiple of 8 of at least 48, got 330"),
        ({"input": {"height": 40}}, "input.height: expected a multiple of 8 of at least 48, got 40"),
        ({"input": 640}, "input: expected a mapping, got 640"),
        (
            {"network": {"backbone": "vgg"}},
            "network.backbone: expected one of resnet34, resnet18, resnet18_half",
        ),
        ({"network": {"pretrained": 3}}, "network.pretrained: expected str or NoneType, got 3"),
        ({"augmentation": {"scale_low": 1.2}}, "augmentation.scale_low: expected 0.25 .. 1, got 1.2"),
        ({"alignment": {"robust_rounds": -1}}, "alignment.robust_rounds: expected 0 .. 100, got -1"),
        ({"pose": {"epochs": 0}}, "pose.correspondence_weighting: expected false where pose.epochs is 0"),
        (
            {"pose": {"update_geometry": False, "correspondence_weighting": False}},
            "pose.update_geometry: expected true",
        ),
        ({"validation_fraction": 0.9}, "validation_fraction: expected 0 .. 0.5, got 0.9"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"geometry": {"step_factor": float("inf")}}, "geometry.step_factor: expected float, got inf"),
        ({"geometry": {"learning_rate": "fast"}}, "geometry.learning_rate: expected float, got 'fast'"),
        ({"geometry": {"learning_rate": "nan"}}, "geometry.learning_rate: expected float, got nan"),
        ({"batch_size": 2.0}, "batch_size: expected int, got 2.0"),
        ({3: 4}, "3: unknown key, expected one of alignment"),
        ({"device": "tpu"}, "device: expected auto, cpu or cuda, got 'tpu'"),
        ([1, 2], "configuration: expected a mapping"),
    ],
)
def test_what_is_wrong_is_named(content: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(content)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_number_without_a_dot_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("geometry: {learning_rate: 1e-4}\nvalidation_fraction: 0\n")
    config = load_config(path)
    assert config.geometry.learning_rate == 1e-4
    assert config.validation_fraction == 0.0


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match="expected a training configuration at .*config.yaml, got nothing"):
        load_config(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="config.yaml: expected YAML, got"):
        load_config(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="config.yaml: expected YAML, got"):
        load_config(path)
    path.write_text("seeds: 3")
    with pytest.raises(ConfigError, match="config.yaml: seeds: unknown key"):
        load_config(path)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    assert load_config(path) == TrainingConfig()


def test_the_digest_sees_every_value() -> None:
    config = TrainingConfig()
    content = dataclasses.asdict(config)
    another = {"resnet34": "resnet18", "step": "onecycle", "auto": "cpu", None: "imagenet"}
    another |= {"structpose": "posenet", "32-true": "bf16-mixed", "xfeat": "xfeat.pt"}
    digests, values = [config.digest()], 0
    for section, value in content.items():
        for key, kept in value.items() if isinstance(value, dict) else [(None, value)]:
            if isinstance(kept, bool):
                changed: object = not kept
            elif isinstance(kept, int):
                changed = kept + 16  # the input's size goes in steps of 16
            else:
                changed = kept * 0.99 + 1e-3 * (kept == 0) if isinstance(kept, float) else another[kept]
            if (section, key) == ("augmentation", "scale_high"):
                changed = 1.2
            altered = {section: {key: changed}} if key else {section: changed}
            digests.append(parse_config(altered).digest())
            values += 1
    assert values > 30
    assert len(set(digests)) == values + 1
    assert TrainingConfig().digest() == config.digest()
    whole, fraction = (dataclasses.replace(config, validation_fraction=value) for value in (0, 0.0))
    assert whole.digest() == fraction.digest()
