"""The card of a model file: it comes back as written, or is refused with one line; its page tells it all."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_files import contract

from structpose_ros.camera import Camera
from structpose_ros.contract import ModelFileError
from structpose_ros.map_cloud import MapCloud
from structpose_ros.model_card import (
    CARD_KEY,
    Export,
    Int8Loss,
    ModelCard,
    Parity,
    TrainingDescription,
    TrainingRun,
)
from structpose_ros.model_page import page
from structpose_ros.model_page_views import field_of_view

VIEWS = TrainingDescription(
    frames=550,
    sequences=2,
    sequence_names=("seq-01", "seq-03"),
    image_width=640,
    image_height=480,
    position_min=(-1.2, 0.5, 0.8),
    position_max=(2.3, 4.0, 1.6),
    heading_deg=(170.0, 290.0),
    pitch_deg=(-31.0, 12.0),
    roll_deg=(-4.0, 6.0),
    up_deviation_deg=9.0,
    depth_m=(0.6, 2.0, 3.9),
    brightness=(81.0, 118.0, 140.0),
    contrast=45.0,
)
TRAINING = TrainingRun(
    epochs=42,
    epochs_planned=60,
    seconds=1260.0,
    skipped_steps=0,
    geometry_loss=0.3535,
    pose_loss=None,
    seed=7,
    torch="2.13.0",
    device="cpu",
    augmentation={
        "photometric": True,
        "roll_degrees": 12.0,
        "tilt_degrees": 0.0,
        "scale_low": 0.8,
        "scale_high": 1.25,
    },
)
PARITY = Parity(4, True, 1e-6, 2e-6, 3e-6, 4, 1e-5, 2e-4, (0.012, 0.3), (0.012, 0.3))
CARD = ModelCard(TRAINING, VIEWS, Export(17, "2.13.0", "1.32.0", "CPUExecutionProvider", PARITY))

numbers = st.floats(-1e9, 1e9)
counts = st.integers(1, 10**6)
pairs = st.tuples(numbers, numbers)
ascending = st.lists(numbers, min_size=3, max_size=3).map(sorted).map(tuple)
ranges = pairs.map(sorted).map(tuple)
corners = st.lists(ranges, min_size=3, max_size=3)


@st.composite
def descriptions(draw: st.DrawFn) -> TrainingDescription:
    box = draw(corners)
    return TrainingDescription(
        frames=draw(counts),
        sequences=draw(counts),
        sequence_names=tuple(draw(st.lists(st.text(max_size=8), max_size=5))),
        image_width=draw(counts),
        image_height=draw(counts),
        position_min=tuple(low for low, _ in box),  # type: ignore[arg-type]
        position_max=tuple(high for _, high in box),  # type: ignore[arg-type]
        heading_deg=draw(st.none() | ranges),
        pitch_deg=draw(ranges),
        roll_deg=draw(st.none() | ranges),
        up_deviation_deg=draw(numbers),
        depth_m=draw(st.none() | ascending),
        brightness=draw(ascending),
        contrast=draw(numbers),
    )


cards = st.builds(
    ModelCard,
    training=st.builds(
        TrainingRun,
        epochs=counts,
        epochs_planned=counts,
        seconds=st.floats(0, 1e9),
        skipped_steps=counts,
        geometry_loss=st.none() | numbers,
        pose_loss=st.none() | numbers,
        seed=st.integers(0, 2**63),
        torch=st.text(max_size=20),
        device=st.text(max_size=20),
        augmentation=st.dictionaries(
            st.text(max_size=20), st.booleans() | st.integers(-1000, 1000) | numbers | st.text(max_size=20)
        ),
    ),
    views=st.none() | descriptions(),
    export=st.builds(
        Export,
        opset=counts,
        torch=st.text(max_size=20),
        onnxruntime=st.text(max_size=20),
        provider=st.text(max_size=20),
        parity=st.builds(
            Parity,
            images=counts,
            recorded=st.booleans(),
            depth=numbers,
            scene_coordinates=numbers,
            weights=numbers,
            poses=counts,
            position_m=numbers,
            rotation_deg=numbers,
            torch_error=st.none() | pairs,
            onnx_error=st.none() | pairs,
        ),
        int8=st.none()
        | st.builds(
            Int8Loss,
            calibrated=counts,
            frames=counts,
            poses=counts,
            position_m=numbers,
            rotation_deg=numbers,
            float_error=st.none() | pairs,
            int8_error=st.none() | pairs,
        ),
    ),
)


def content_of(card: ModelCard) -> dict[str, Any]:
    content = json.loads(card.to_metadata()[CARD_KEY])
    assert isinstance(content, dict)
    return content


def read(content: object) -> ModelCard | None:
    return ModelCard.from_metadata({CARD_KEY: json.dumps(content)})


def page_of(path: Path, card: ModelCard | None, **changes: object) -> str:
    """Return a page with its line breaks taken out: how it wraps is not what is tested."""
    text = page(path, "ab" * 32, contract(**changes), card, None)
    return " ".join(text.split())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(4_700_000))
    return path


@given(cards)
def test_a_card_comes_back_as_it_was_written(card: ModelCard) -> None:
    metadata = card.to_metadata()
    assert list(metadata) == [CARD_KEY]
    assert ModelCard.from_metadata({"author": "someone", **metadata}) == card
    assert json.loads(metadata[CARD_KEY])["version"] == 2


@given(cards)
def test_every_card_has_a_page(card: ModelCard) -> None:
    """Whatever a file says, its page can be made, and holds nothing that a terminal would act on."""
    text = page(Path(__file__), "0" * 64, contract(), card, None)
    assert all(line.isprintable() for line in text.splitlines())


def test_a_file_without_a_card_has_none() -> None:
    assert ModelCard.from_metadata({}) is None
    assert ModelCard.from_metadata({"structpose_ros": "{}"}) is None


@pytest.mark.parametrize("version", [0, 1, 3, "2", None, True, 2.0])
def test_another_version_is_refused_before_its_fields(version: object) -> None:
    with pytest.raises(ModelFileError, match=f"expected version 2 of .*card', got {version!r}: export"):
        read({"version": version, "a_field_of_the_future": 1})


@pytest.mark.parametrize("text", ["", "{cut off", "[" * 50_000, '{"version": ' + "9" * 5000 + "}"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError, match=r"expected JSON in metadata 'structpose_ros\.card', got"):
        ModelCard.from_metadata({CARD_KEY: text})


def test_a_huge_entry_is_refused_unread() -> None:
    with pytest.raises(ModelFileError, match="expected at most 100000 characters in .*, got 100001$"):
        ModelCard.from_metadata({CARD_KEY: " " * 100_001})


@pytest.mark.parametrize("place", [(), ("training",), ("views",), ("export",), ("export", "parity")])
def test_missing_and_unknown_fields_are_refused_by_name(place: tuple[str, ...]) -> None:
    def part(content: dict[str, Any]) -> dict[str, Any]:
        for name in place:
            content = content[name]
        return content

    for name in part(content_of(CARD)).keys() - {"version"}:
        content = content_of(CARD)
        del part(content)[name]
        with pytest.raises(ModelFileError, match=rf"usable card in .* missing \['{name}'\], unknown \[\]"):
            read(content)
    content = content_of(CARD)
    part(content)["surprise"] = 1
    with pytest.raises(ModelFileError, match=r"usable card in .* missing \[\], unknown \['surprise'\]"):
        read(content)


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        (None, "training", None, "card.training = None, which is no TrainingRun"),
        (None, "views", [1], r"card.views = \[1\], which is no"),
        ("training", "epochs", 1.0, "card.training.epochs = 1.0, which is no int"),
        ("training", "epochs", True, "epochs = True, which is no int"),
        ("training", "epochs", -1, "epochs: expected at least 0, got -1"),
        ("training", "seconds", "9", "seconds = '9', which is no float"),
        ("training", "seconds", math.nan, "seconds: expected finite numbers, got nan"),
        ("training", "seconds", 10**400, "seconds = 1000.*, which no float can hold"),
        ("training", "torch", None, "torch = None, which is no str"),
        ("training", "augmentation", {"a": [1]}, r"augmentation.a = \[1\], which is no"),
        ("training", "augmentation", {"a": math.inf}, "augmentation: expected finite numbers"),
        ("views", "frames", 0, "frames: expected at least 1, got 0"),
        ("views", "position_min", [0.0, 0.0], "position_min: expected three numbers"),
        ("views", "position_min", [9.0, 0.0, 0.0], "position_min: expected at most 2.3, got 9.0"),
        ("views", "position_max", ["a", 0.0, 0.0], r"position_max\[0\] = 'a', which is no float"),
        ("views", "position_max", [math.nan, 9.0, 9.0], "position_max: expected finite numbers"),
        ("views", "heading_deg", [3.0, 1.0], "heading_deg: expected 2 ascending numbers"),
        ("views", "pitch_deg", None, "pitch_deg = None, which is no tuple"),
        ("views", "depth_m", [1.0, 2.0], "depth_m: expected 3 ascending numbers"),
        ("views", "sequence_names", "seq-01", "sequence_names = 'seq-01', which is no tuple"),
        ("views", "sequence_names", [5], r"sequence_names\[0\] = 5, which is no str"),
        ("export", "opset", "17", "opset = '17', which is no int"),
        ("export", "parity", {}, r"card.export.parity of other fields: missing \['depth'"),
    ],
)
def test_a_damaged_card_is_refused_by_name(place: str | None, name: str, value: object, message: str) -> None:
    content = content_of(CARD)
    (content[place] if place else content)[name] = value
    with pytest.raises(ModelFileError, match=message) as caught:
        read(content)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("depth", math.nan, "depth: expected finite numbers, got nan"),
        ("torch_error", (0.1, math.inf), "torch_error: expected finite numbers"),
        ("torch_error", (0.1,), "torch_error: expected two numbers"),
    ],
)
def test_what_did_not_agree_has_no_card(name: str, value: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        Export(17, "", "", "", dataclasses.replace(PARITY, **{name: value}))


def test_the_page_says_what_the_views_show_and_what_follows(file: Path) -> None:
    text = page_of(file, CARD, dataset="kitchen")
    assert "model.onnx: finds a camera in the map of 'kitchen'" in text
    assert "views 550 frames of seq-01, seq-03 camera 640x480, field of view 56 x 44 deg" in text
    assert "camera positions x -1.20 .. 2.30, y 0.50 .. 4.00, z 0.80 .. 1.60 m" in text
    assert "heading 170 .. 290 deg (from the map's x towards y), pitch -31 .. 12 deg" in text
    assert "roll -4 .. 6 deg (right side down positive); the map's z axis is taken as up surfaces" in text
    assert "distances 0.6 .. 3.9 m along the optical axis (90 % of the pixels), median 2.0 m" in text
    assert "mean brightness 81 .. 140 of 255 (90 % of the images), median 118" in text
    _, _, works = text.partition("Works on")
    # 1.25 times nearer: 2.0 m (1 - 1 / 1.25) ahead; at 0.8 it is 0.5 m back. The lesser holds for both.
    assert "or up to 0.4 m ahead of or behind a trained view" in works
    assert "camera height z 0.80 .. 1.60 m" in works
    assert "heading 170 .. 290 deg roll -16 .. 18 deg (12 deg at either end by augmentation)" in works
    assert "pitch -31 .. 12 deg field of view about 56 x 44 deg" in works
    assert "about 81 .. 140 of 255, and somewhat beyond" in works
    assert "42 of 60 epochs in 21 min" in text
    assert "last loss geometry stage 0.3535 augmentation photometric on, roll_degrees 12.0" in text
    assert "cpu, torch 2.13.0" in text
    assert "4.7 MB, format version 3, ONNX opset 17" in text
    assert "on 4 training frames: outputs agree to 3e-06 relative, 4 poses to 0.01 mm and 0.0002 deg" in text
    assert "torch 0.012 m, 0.30 deg; ONNX 0.012 m, 0.30 deg" in text


def test_a_refined_lens_is_named(file: Path) -> None:
    text = page_of(file, CARD, refined_camera=Camera(64, 48, 60.0, 60.0, 31.5, 23.5).with_radial(-0.1114))
    assert "its images show a lens of k1 -0.111, which is used for cameras of this calibration" in text
    assert "k1" not in page_of(file, CARD)


def test_lines_fit_a_terminal(file: Path) -> None:
    lines = page(file, "ab" * 32, contract(), CARD, None).splitlines()[1:]
    assert max(map(len, lines)) <= 100
    assert all(line.isascii() for line in lines)


def test_a_map_whose_z_is_not_up_is_named(file: Path) -> None:
    turned = dataclasses.replace(VIEWS, up_deviation_deg=92.0, heading_deg=None, roll_deg=None)
    text = page_of(file, dataclasses.replace(CARD, views=turned))
    assert "the images' upper side points 92 deg away from it: z is not up in this map" in text
    assert "heading" not in text
    assert "roll " not in text.partition("Accuracy")[0]
    assert "not up" not in page_of(file, CARD)


def test_views_all_around_have_any_heading(file: Path) -> None:
    views = dataclasses.replace(VIEWS, heading_deg=(-178.0, 178.0))
    tilted = dataclasses.replace(TRAINING, augmentation={"tilt_degrees": 3.0})
    text = page_of(file, ModelCard(tilted, views, CARD.export))
    assert "heading any" in text
    assert "pitch -34 .. 15 deg (3 deg at either end" in text
    assert "ahead of or behind" not in text
    assert "somewhat beyond" not in text


def test_files_of_earlier_releases_have_a_shorter_page(file: Path) -> None:
    text = page_of(file, None)
    assert "no card: the file was exported by an earlier release" in text
    assert "field of view 56 x 44 deg, no distortion; the network sees 64x48" in text
    assert "Works on" not in text
    assert "not recorded: the run was trained" in page_of(file, dataclasses.replace(CARD, views=None))


@pytest.mark.parametrize("frames", [30, 50])
def test_accuracy_on_few_frames_comes_with_a_caution(frames: int, file: Path) -> None:
    validation = {
        "frames": float(frames),
        "accepted": 28.0,
        "median_position_m": 0.0642,
        "median_rotation_deg": 0.687,
        "within_10cm_5deg": 0.625,
        "accepted_median_position_m": 0.051,
        "accepted_median_rotation_deg": 0.5,
        "mean_nees": 6.0,
        "nees_frames": 27.0,
        "ellipsoid95_coverage": 0.93,
    }
    text = page_of(file, CARD, validation=validation, covariance_scale=112.3)
    assert f"measured on {frames} frames of the recording, held out of training" in text
    assert "median error 0.064 m and 0.69 deg, 62 % within 10 cm and 5 deg" in text
    assert f"28 of {frames} by the default gate of the accepted median error 0.051 m and 0.50 deg" in text
    assert (f"caution {frames} frames are few" in text) == (frames < 50)
    assert "what a frame's residuals alone say, times 112; fitted" in text
    assert "mean NEES 6.00 (6 is right), 93 % of the errors within the 95 % ellipsoid; over 27" in text


def test_accuracy_that_was_not_measured_is_said_so(file: Path) -> None:
    text = page_of(file, CARD)
    assert "caution not measured: no frame was held out" in text
    assert "count as inliers; as configured" in text
    assert "most likely too small; not fitted" in text


def test_a_pose_that_was_not_compared_is_said_so(file: Path) -> None:
    parity = dataclasses.replace(PARITY, recorded=False, images=1, poses=0)
    export = dataclasses.replace(CARD.export, parity=parity)
    text = page_of(file, dataclasses.replace(CARD, export=export))
    assert "on 1 images of noise: outputs agree to 3e-06 relative; no pose was certain enough" in text


def test_what_int8_costs_is_said(file: Path) -> None:
    loss = Int8Loss(12, 11, 10, 0.0029, 0.063, (0.0045, 0.091), (0.0051, 0.11))
    text = page_of(file, dataclasses.replace(CARD, export=dataclasses.replace(CARD.export, int8=loss)))
    assert "ONNX opset 17, in int8 (for a CPU)" in text
    assert "Accuracy of the network in float32" in text
    assert "Calibration of the network in float32" in text
    assert "int8 costs on 11 training frames, calibrated on 12 others: 10 poses in the median 2.9 mm" in text
    assert (
        "and 0.06 deg from those in float32 (median error there: float32 4.5 mm, 0.09 deg; int8 5.1" in text
    )
    loss = dataclasses.replace(loss, float_error=None, int8_error=None)
    text = page_of(file, dataclasses.replace(CARD, export=dataclasses.replace(CARD.export, int8=loss)))
    assert "from those in float32 map cloud" in text
    assert "int8 costs" not in page_of(file, CARD)
    assert "in float32" not in page_of(file, CARD)


@pytest.mark.parametrize("name", ["position_m", "rotation_deg", "float_error", "int8_error"])
def test_what_int8_costs_is_finite(name: str) -> None:
    loss = Int8Loss(12, 11, 10, 0.0029, 0.063)
    for wrong in (math.nan, math.inf):
        value = (0.1, wrong) if name.endswith("error") else wrong
        with pytest.raises(ModelFileError, match=f"{name}: expected finite numbers"):
            dataclasses.replace(CARD.export, int8=dataclasses.replace(loss, **{name: value}))


def test_names_in_a_file_cannot_command_a_terminal(file: Path) -> None:
    text = page(file, "", contract(dataset="room\x1b[2J\r\nhidden" + 1000 * "x"), None, None)
    assert "'room\\x1b[2J\\r\\nhiddenxxx" in text.splitlines()[0]
    assert len(text.splitlines()[0]) < 500


def test_the_map_cloud_is_counted(file: Path) -> None:
    cloud = MapCloud(np.zeros((5, 3), np.float32), np.zeros((5, 3), np.uint8))
    assert "map cloud           5 points" in page(file, "", contract(), None, cloud)


def test_the_field_of_view_is_that_of_the_whole_image() -> None:
    assert field_of_view(Camera(200, 100, 100.0, 50.0, 99.5, 49.5)) == pytest.approx((90.0, 90.0))
    ideal = Camera(
        180, 90, 90 / math.radians(80), 45 / math.radians(40), 89.5, 44.5, "equidistant", (0.0,) * 4
    )
    assert field_of_view(ideal) == pytest.approx((160.0, 80.0), abs=1e-6)
    beyond = dataclasses.replace(ideal, fx=10.0)  # its image is wider than the lens reaches
    assert 140 < field_of_view(beyond)[0] <= 170.0
