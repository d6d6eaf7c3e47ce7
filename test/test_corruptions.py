"""Images that are no view of the map: what they are made of, and that a seed gives them again."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from structpose_ros.training import corruptions
from structpose_ros.training.corruptions import KINDS, TEXTURES, corrupt, foreign_images, texture

IMAGE = texture("bricks", (64, 48), np.random.default_rng(7))
SHAPES = [(48, 64, 3), (50, 75, 3), (64, 48, 3), (6, 8, 3)]


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(shape: tuple[int, ...]) -> np.ndarray:
    return seeded(99).integers(0, 256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_spoilt_frame_has_the_shape_of_the_frame_which_is_left_alone(
    kind: str, shape: tuple[int, ...]
) -> None:
    image = drawn(shape)
    before = image.copy()
    spoilt = corrupt(image, kind, seeded())
    assert (spoilt.shape, spoilt.dtype) == (shape, np.uint8)
    assert spoilt.flags.c_contiguous
    assert not np.shares_memory(spoilt, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(spoilt, corrupt(image, kind, seeded()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_frame_is_another_image(kind: str) -> None:
    for seed in range(5):
        difference = np.abs(corrupt(IMAGE, kind, seeded(seed)).astype(int) - IMAGE).mean()
        assert difference > 5


@pytest.mark.parametrize("kind", ["covered", "blurred", "shuffled"])
def test_another_seed_spoils_otherwise(kind: str) -> None:
    assert (corrupt(IMAGE, kind, seeded(0)) != corrupt(IMAGE, kind, seeded(1))).mean() > 0.3


def test_mirrored_and_turned_frames_pixel_by_pixel() -> None:
    np.testing.assert_array_equal(corrupt(IMAGE, "mirrored", seeded()), IMAGE[:, ::-1])
    np.testing.assert_array_equal(corrupt(IMAGE, "half_turn", seeded()), IMAGE[::-1, ::-1])
    square = drawn((48, 48, 3))
    turns = {corrupt(square, "quarter_turn", seeded(seed)).tobytes() for seed in range(20)}
    assert turns == {np.ascontiguousarray(np.rot90(square, way)).tobytes() for way in (1, -1)}


def test_a_quarter_turn_enlarges_the_middle_evenly() -> None:
    """A disc in the middle stays a disc, by 4 / 3 as large in an image of 4 to 3."""
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    cv2.circle(image, (320, 240), 90, (255, 255, 255), -1)
    turned = corrupt(image, "quarter_turn", seeded())[..., 0] > 127
    rows, columns = np.nonzero(turned)
    assert np.ptp(rows) == pytest.approx(240, abs=4)
    assert np.ptp(columns) == pytest.approx(240, abs=4)
    assert (rows.mean(), columns.mean()) == pytest.approx((239.5, 319.5), abs=2)


def test_a_covered_lens_shows_nothing_of_the_frame() -> None:
    dark = 0
    for seed in range(30):
        covered = corrupt(drawn((48, 64, 3)), "covered", seeded(seed)).astype(float)
        np.testing.assert_array_equal(covered, corrupt(np.zeros_like(IMAGE), "covered", seeded(seed)))
        blurred = cv2.GaussianBlur(covered, (0, 0), 3)
        assert np.abs(covered - blurred).std() < 10  # but for grain there is no edge
        dark += covered.mean() < 26
    assert 10 <= dark <= 25


@pytest.mark.parametrize("width", [160, 640])
def test_blur_leaves_nothing_finer_than_its_sigma_and_grows_with_the_image(width: int) -> None:
    height = width * 3 // 4
    edge = np.zeros((height, width, 3), dtype=np.uint8)
    edge[:, width // 2 :] = 255
    sigmas = []
    for seed in range(10):
        profile = corrupt(edge, "blurred", seeded(seed))[height // 2, :, 0].astype(float)
        low, high = np.searchsorted(profile, [255 * 0.1587, 255 * 0.8413])  # a sigma to either side
        sigmas.append(0.5 * (high - low) * 640 / width)
    assert min(sigmas) > 12 - 2 * 640 / width / 2
    assert max(sigmas) < 30 + 2 * 640 / width / 2
    assert np.ptp(sigmas) > 5


def test_shuffled_tiles_are_those_of_the_frame_elsewhere() -> None:
    image = drawn((48, 64, 3))
    shuffled = corrupt(image, "shuffled", seeded())

    def tiles(of: np.ndarray) -> list[bytes]:
        return [of[y : y + 8, x : x + 8].tobytes() for y in range(0, 48, 8) for x in range(0, 64, 8)]

    assert sorted(tiles(shuffled)) == sorted(tiles(image))
    assert sum(one == other for one, other in zip(tiles(shuffled), tiles(image), strict=True)) < 6


@pytest.mark.parametrize("kind", TEXTURES)
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (33, 17), (8, 6)])
def test_a_texture_has_its_size_and_contrast_and_comes_again(kind: str, size: tuple[int, int]) -> None:
    images = [texture(kind, size, seeded(seed)) for seed in range(6)]
    for seed, image in enumerate(images):
        assert (image.shape, image.dtype) == ((size[1], size[0], 3), np.uint8)
        np.testing.assert_array_equal(image, texture(kind, size, seeded(seed)))
    assert np.median([image.std() for image in images]) > 8
    assert len({image.tobytes() for image in images}) == 6


def test_foreign_images_take_every_texture_in_turn_without_scikit_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    images = list(foreign_images(64, 48, 7, seeded()))
    assert [name for name, _ in images] == [f"texture:{TEXTURES[number % 5]}" for number in range(7)]
    assert all((image.shape, image.dtype) == ((48, 64, 3), np.uint8) for _, image in images)
    again = foreign_images(64, 48, 7, seeded())
    for (_, image), (_, repeated) in zip(images, again, strict=True):
        np.testing.assert_array_equal(image, repeated)
    assert (images[0][1] != images[5][1]).any()  # the same kind, drawn anew


def test_photographs_are_cut_to_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for scikit-image: a photograph in colour, whose red grows to the right, and one in grey."""
    folder = tmp_path / "data"
    folder.mkdir()
    ramp = np.tile(np.arange(256, dtype=np.uint8), (100, 1))
    rgb = np.stack([ramp, np.zeros_like(ramp), 255 - ramp], axis=-1)
    cv2.imwrite(str(folder / "astronaut.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(folder / "camera.png"), ramp)
    (folder / "other.png").write_bytes(b"not one of those known")
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == "skimage" else None)
    assert [path.name for path in corruptions.photographs()] == ["astronaut.png", "camera.png"]
    images = list(foreign_images(40, 30, 14, seeded()))
    names = [name for name, _ in images]
    assert names[5:7] == ["photograph:astronaut", "photograph:camera"] == names[12:14]
    assert (images[5][1] != images[12][1]).any()
    for name, image in images:
        assert (image.shape, image.dtype) == ((30, 40, 3), np.uint8)
        if name == "photograph:astronaut":
            np.testing.assert_allclose(image[..., 0].astype(int) + image[..., 2], 255, atol=2)
            assert not image[..., 1].any()
            # 40 % to all of the height of 100, at 4 to 3, is 53 to 133 of the 256 levels.
            assert 50 <= np.ptp(image[..., 0]) <= 134
    (folder / "camera.png").write_bytes(b"broken")
    with pytest.raises(
        OSError, match=r"expected an image at .*camera.png, got a file that OpenCV can't read"
    ):
        list(foreign_images(40, 30, 7, seeded()))


def test_the_photographs_of_the_installed_scikit_image_can_be_read() -> None:
    paths = corruptions.photographs()
    if not paths:
        pytest.skip("scikit-image is not installed")
    assert len(paths) >= 10
    names = [name for name, _ in foreign_images(160, 120, len(TEXTURES) + len(paths), seeded())]
    assert names[len(TEXTURES) :] == [f"photograph:{path.stem}" for path in paths]


def test_what_can_not_be_spoilt_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a kind of covered, blurred, .*, got 'melted'"):
        corrupt(IMAGE, "melted", seeded())
    with pytest.raises(ValueError, match="expected a texture of noise, gratings, .*, got 'fur'"):
        texture("fur", (64, 48), seeded())
    for image in (IMAGE[:5], IMAGE[:, :7], IMAGE[..., 0], IMAGE[..., :2], IMAGE.astype(float)):
        with pytest.raises(ValueError, match=r"expected an image \(H, W, 3\) of 8 bits and at least 8x6 px"):
            corrupt(image, "mirrored", seeded())
