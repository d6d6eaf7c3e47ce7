"""What training views show is measured frame by frame, and comes back from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recordings import CAMERA, LEVEL, frame, pose

from structpose_ros.contract import ModelFileError
from structpose_ros.geometry import rotation_from_vector, transform
from structpose_ros.model_card import TrainingDescription
from structpose_ros.training.description import as_plain, covering_arc, describe_frames, from_plain
from structpose_ros.training.frames import Frame, RecordingError


def rolled(degrees: float, heading: float = 0.0) -> np.ndarray:
    """Return map_from_camera of a level camera at the origin, turned about its optical axis."""
    level = rotation_from_vector([0.0, 0.0, np.radians(heading)]) @ LEVEL
    return transform(level @ rotation_from_vector([0.0, 0.0, np.radians(degrees)]), np.zeros(3))


def plain_frame(map_from_camera: np.ndarray, grey: int = 100, depth_mm: int = 2000) -> Frame:
    image = np.full((48, 64, 3), grey, np.uint8)
    return Frame("seq-01/frame-000000", image, np.full((48, 64), depth_mm, np.uint16), map_from_camera)


def described(*poses: np.ndarray) -> TrainingDescription:
    return describe_frames([plain_frame(item) for item in poses], CAMERA)


def test_where_the_cameras_stood_and_looked() -> None:
    angles = [(-0.7, 0.2, np.radians(10), np.radians(5)), (0.5, -0.4, np.radians(60), np.radians(-20))]
    views = [frame(f"seq-0{index}/frame-000000", pose(*at)) for index, at in enumerate(angles)]
    found = describe_frames(views, CAMERA)
    assert (found.frames, found.sequences, found.sequence_names) == (2, 2, ("seq-00", "seq-01"))
    assert (found.image_width, found.image_height) == (64, 48)
    assert found.position_min == pytest.approx((-0.7, -0.4, 1.2))
    assert found.position_max == pytest.approx((0.5, 0.2, 1.2))
    assert found.heading_deg == pytest.approx((10.0, 60.0))
    assert found.pitch_deg == pytest.approx((-20.0, 5.0))  # a turn about the camera's x axis looks up
    assert found.roll_deg == pytest.approx((0.0, 0.0), abs=1e-9)
    assert found.up_deviation_deg < 20


@given(st.floats(-179.0, 179.0), st.floats(-179.0, 179.0))
def test_roll_is_the_turn_about_the_optical_axis(degrees: float, heading: float) -> None:
    found = described(rolled(degrees, heading))
    assert found.roll_deg == pytest.approx((degrees, degrees), abs=1e-6)
    assert found.heading_deg == pytest.approx((heading, heading), abs=1e-6)
    assert found.up_deviation_deg == pytest.approx(abs(degrees), abs=1e-6)


def test_a_camera_upside_down_has_a_range_across_half_a_turn() -> None:
    assert described(rolled(170.0), rolled(-175.0)).roll_deg == pytest.approx((170.0, 185.0))


def test_a_camera_that_looks_down_has_no_heading() -> None:
    down = transform(rotation_from_vector([np.pi, 0.0, 0.0]), np.zeros(3))
    found = described(down)
    assert found.pitch_deg == pytest.approx((-90.0, -90.0))
    assert found.heading_deg is None
    assert found.roll_deg is None


def test_a_map_whose_y_axis_is_down_deviates_by_a_right_angle() -> None:
    assert described(np.eye(4)).up_deviation_deg == pytest.approx(
        90.0
    )  # the map is a camera's frame, as in 7-Scenes


def test_distances_leave_out_what_is_invalid() -> None:
    views = [
        plain_frame(np.eye(4), depth_mm=mm) for mm in (0, 0, *([1000] * 9), *([2000] * 82), *([3000] * 9))
    ]
    assert describe_frames(views, CAMERA).depth_m == pytest.approx((1.0, 2.0, 3.0))
    assert describe_frames(views[:1], CAMERA).depth_m is None


def test_light_is_that_of_whole_images() -> None:
    greys = [50, *([100] * 19), 150]
    views = [plain_frame(np.eye(4), grey) for grey in greys]
    found = describe_frames(views, CAMERA)
    assert found.brightness == pytest.approx((100.0, 100.0, 100.0))
    assert found.contrast == pytest.approx(0.0, abs=1e-9)
    halves = views[1]
    halves.image_rgb[:, 32:] = 200
    found = describe_frames([halves], CAMERA)
    assert found.brightness == pytest.approx((150.0,) * 3)
    assert found.contrast == pytest.approx(50.0)
    green = plain_frame(np.eye(4), 0)
    green.image_rgb[..., 1] = 100
    assert describe_frames([green], CAMERA).brightness[1] == pytest.approx(58.7)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (48, 64), (481, 643)])
def test_images_of_any_size_are_sampled(size: tuple[int, int]) -> None:
    view = Frame("s/0", np.full((*size, 3), 9, np.uint8), np.full(size, 1500, np.uint16), np.eye(4))
    found = describe_frames([view], CAMERA)
    assert found.depth_m == (1.5, 1.5, 1.5)
    assert found.brightness == pytest.approx((9.0,) * 3)


def test_frames_are_taken_one_at_a_time() -> None:
    alive = []

    def frames() -> Iterator[Frame]:
        for _ in range(3):
            alive.append(plain_frame(np.eye(4)))
            yield alive.pop()

    assert describe_frames(frames(), CAMERA).frames == 3
    with pytest.raises(RecordingError, match="expected training frames, got none"):
        describe_frames([], CAMERA)


@given(st.lists(st.floats(-1000.0, 1000.0), min_size=1, max_size=12))
def test_an_arc_covers_all_angles_and_no_more_than_it_must(degrees: list[float]) -> None:
    arc = covering_arc(degrees)
    assert arc is not None
    low, high = arc
    assert -180.0 <= low <= 180.0
    assert low <= high
    behind = (np.array(degrees) - low + 1e-6) % 360.0
    assert (behind <= high - low + 2e-6).all()
    turns = np.sort((np.array(degrees) - low) % 360.0)
    assert high - low <= 360.0 - 360.0 / len(turns) + 1e-6  # the largest gap is at least the mean one


def test_no_angles_have_no_arc() -> None:
    assert covering_arc([]) is None


def test_a_description_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    found = described(rolled(3.0), rolled(170.0))
    torch.save({"description": as_plain(found)}, tmp_path / "checkpoint.pt")
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["description"]
    assert from_plain(kept) == found
    with pytest.raises(ModelFileError, match=r"checkpoint's description\.frames = 'two', which is no int"):
        from_plain({**kept, "frames": "two"})
