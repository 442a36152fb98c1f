"""How images lie in their arrays, and turning them round."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_pt.core.errors import PredictionError, StorageError
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.inference.orientation import (
    ORIENTATION_FILE,
    Reorientation,
    is_orientation,
    orientation_of,
    read_orientation,
    record_orientation,
)

ALL = ["".join(letters) for pairs in permutations(("LR", "AP", "IS")) for letters in product(*pairs)]
LPS_VECTORS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
codes = st.sampled_from(ALL)


def sitk_properties(orientation: str, turn: np.ndarray | None = None) -> dict[str, Any]:
    """Properties of an image whose array axes have these directions, slowest first, within a turned patient."""
    columns = np.array([LPS_VECTORS[letter] for letter in reversed(orientation)], float).T
    direction = (np.eye(3) if turn is None else turn) @ columns
    return {"sitk_stuff": {"direction": tuple(direction.ravel())}, "spacing": [1.0, 2.0, 3.0]}


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def test_there_are_48() -> None:
    assert len(set(ALL)) == 48
    assert all(is_orientation(code) for code in ALL)
    assert not any(is_orientation(code) for code in ("SPX", "SSL", "SP", "spl", "", None, 3, ["S", "P", "L"]))


@pytest.mark.parametrize("code", ALL)
def test_directions(code: str) -> None:
    assert orientation_of(sitk_properties(code)) == code


def test_common_images() -> None:
    """An image without a direction has its axes along L, P and S; nibabel's identity has them along R, A and S."""
    assert orientation_of({"sitk_stuff": {"direction": tuple(np.eye(3).ravel())}}) == "SPL"
    assert orientation_of({"nibabel_stuff": {"original_affine": np.diag([2.0, 3, 4, 1])}}) == "SAR"
    affine = np.array([[0, 0, -2.0, 5], [-1, 0, 0, 7], [0, 3, 0, 1], [0, 0, 0, 1]])  # voxel axes along P, S, L
    assert orientation_of({"nibabel_stuff": {"original_affine": affine}}) == "LSP"
    reoriented = {"original_affine": affine, "reoriented_affine": np.eye(4)}
    assert orientation_of({"nibabel_stuff": reoriented}) == "SAR"


def test_several_volumes_in_a_file() -> None:
    direction = np.eye(4)
    direction[:3, :3] = np.diag([-1, -1, 1])
    assert orientation_of({"sitk_stuff": {"direction": tuple(direction.ravel())}}) == "SAR"


@pytest.mark.parametrize(
    "properties",
    [
        {"spacing": [999, 1, 1]},
        {"sitk_stuff": {"direction": (1.0, 0.0, 0.0, 1.0)}},
        {"sitk_stuff": {"direction": (0.0,) * 9}},
        {"sitk_stuff": {"direction": (float("nan"),) * 9}},
        {"sitk_stuff": {"direction": (1.0, 1, 0, 0, 0, 1, 0, 0, 0)}},
        {"sitk_stuff": {"direction": "LPS"}},
        {"sitk_stuff": {}},
        {"sitk_stuff": None},
        {"nibabel_stuff": {"original_affine": np.eye(3)}},
        {"nibabel_stuff": {}},
    ],
)
def test_images_without_geometry(properties: dict[str, Any]) -> None:
    assert orientation_of(properties) is None


@given(codes, st.floats(-44, 44), st.sampled_from(range(3)))
def test_oblique_images_have_the_closest_orientation(code: str, degrees: float, axis: int) -> None:
    assert orientation_of(sitk_properties(code, rotation(degrees, axis))) == code


@given(codes, st.lists(st.integers(-180, 180), min_size=3, max_size=3))
@settings(max_examples=200)
def test_all_presentations_of_an_oblique_image_are_turned_alike(code: str, degrees: list[int]) -> None:
    """Whatever the obliquity, also exactly between two directions: permuted and flipped axes change nothing else."""
    turn = rotation(degrees[0], 0) @ rotation(degrees[1], 1) @ rotation(degrees[2], 2)
    plain, other = orientation_of(sitk_properties("SPL", turn)), orientation_of(sitk_properties(code, turn))
    assert plain is not None
    assert other is not None
    assert sorted("LRAPIS".index(letter) // 2 for letter in other) == [0, 1, 2]
    there = Reorientation.between("SPL", code)
    expected = Reorientation.between(plain, other)
    assert (there.order, there.flipped) == (expected.order, expected.flipped)


@given(codes, codes, hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5)))
def test_apply_and_undo(current: str, wanted: str, array: np.ndarray) -> None:
    turn = Reorientation.between(current, wanted)
    assert np.array_equal(turn.undo(turn.apply(array)), array)
    assert np.array_equal(turn.apply(turn.undo(array)), array)
    assert np.array_equal(Reorientation.between(wanted, current).apply(turn.apply(array)), array)
    assert turn.is_identity == (current == wanted)
    assert np.shares_memory(turn.apply(array), array)


@given(codes, codes)
def test_spacing_follows_its_axis(current: str, wanted: str) -> None:
    spacing = {"L": 1.0, "R": 1.0, "A": 2.0, "P": 2.0, "I": 3.0, "S": 3.0}
    given = {"spacing": [spacing[letter] for letter in current], "sitk_stuff": {"origin": (0, 0, 0)}}
    made = Reorientation.between(current, wanted).properties(given)
    assert made == {**given, "spacing": [spacing[letter] for letter in wanted]}
    assert given["spacing"] == [spacing[letter] for letter in current]


@pytest.mark.parametrize("bad", ["", "SPX", "SSL"])
def test_wrong_orientations_are_refused(bad: str) -> None:
    with pytest.raises(PredictionError, match="orientation"):
        Reorientation.between("SPL", bad)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("turn", [np.eye(3), rotation(20, 0) @ rotation(-35, 2)], ids=["straight", "oblique"])
def test_all_presentations_of_a_volume_give_the_same_array(reader: str, turn: np.ndarray, tmp_path: Path) -> None:
    """A volume written in each of the 48 orientations, read and turned to one of them."""
    io, wanted = reader_writer_by_name(reader), "PRI"
    plain = volume(turn)
    arrays, spacings = [], []
    for number, (axes, flips) in enumerate(product(permutations(range(3)), product((False, True), repeat=3))):
        path = tmp_path / f"{number}.nii.gz"
        sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(plain, list(axes)), list(flips)), str(path))
        image, properties = io.read_images([path])
        current = orientation_of(properties)
        assert current is not None
        reorientation = Reorientation.between(current, wanted)
        turned = reorientation.apply(image)
        arrays.append(turned)
        spacings.append(reorientation.properties(properties)["spacing"])

        back = tmp_path / "back.nii.gz"  # and what was found there is written to where it belongs
        io.write_segmentation(reorientation.undo((turned[0] > 500).astype(np.uint8)), back, properties)
        original, mask = sitk.ReadImage(str(path)), sitk.ReadImage(str(back))
        assert np.array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(original) > 500)
        np.testing.assert_allclose(mask.GetDirection(), original.GetDirection(), atol=1e-5)
        np.testing.assert_allclose(mask.GetOrigin(), original.GetOrigin(), atol=1e-3)
    assert len(arrays) == 48
    assert all(np.array_equal(array, arrays[0]) for array in arrays)
    np.testing.assert_allclose(spacings, [spacings[0]] * 48, rtol=1e-5)
    assert [round(s, 3) for s in spacings[0]] == [2.0, 1.0, 3.0]


def volume(turn: np.ndarray) -> sitk.Image:
    """A volume whose axes lie along L, P and S of a turned patient, with spacing 1, 2, 3 mm."""
    array = np.random.default_rng(1).integers(0, 1000, (4, 5, 6)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((-7.0, 11.0, 13.0))
    image.SetDirection([float(v) for v in turn.ravel()])
    return image


def test_readers_that_turn_images_themselves(tmp_path: Path) -> None:
    found = set()
    for code in ("SPL", "RAI", "LSA"):
        sitk.WriteImage(sitk.DICOMOrient(volume(np.eye(3)), code), str(tmp_path / "image.nii.gz"))
        for reader in ("NibabelIOWithReorient", "SimpleITKIOWithReorient"):
            properties = reader_writer_by_name(reader).read_images([tmp_path / "image.nii.gz"])[1]
            found.add((reader, orientation_of(properties)))
    assert len(found) == 2


def test_pictures(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.uint8)), str(tmp_path / "picture.png"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.uint8)), str(tmp_path / "flat.nrrd"))
    for reader, name in (("NaturalImage2DIO", "picture.png"), ("SimpleITKIO", "flat.nrrd")):
        assert orientation_of(reader_writer_by_name(reader).read_images([tmp_path / name])[1]) is None


def test_record(tmp_path: Path) -> None:
    assert read_orientation(tmp_path) is None
    record_orientation(tmp_path, "SPL", 42)
    assert read_orientation(tmp_path) == "SPL"
    text = (tmp_path / ORIENTATION_FILE).read_text()
    assert "axis 0 towards superior (S), axis 1 towards posterior (P), axis 2 towards left (L)" in text
    assert "42" in text


@pytest.mark.parametrize("text", ['{"orientation": "SPX"}', "{}", "[]", '{"orientation": ["S", "P", "L"]}'])
def test_record_that_cannot_be_understood(text: str, tmp_path: Path) -> None:
    (tmp_path / ORIENTATION_FILE).write_text(text)
    with pytest.raises(PredictionError, match=r"orientation\.json.*\n.*found"):
        read_orientation(tmp_path)


def test_record_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / ORIENTATION_FILE).write_text("{")
    with pytest.raises(StorageError, match=ORIENTATION_FILE):
        read_orientation(tmp_path)
