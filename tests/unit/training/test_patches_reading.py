from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loader_cases import SHAPE, make_arrays, make_source, write_case

from nnunet_pt.core.errors import StorageError
from nnunet_pt.preprocessing.store import write_array
from nnunet_pt.training import patches
from nnunet_pt.training.locations import LocationCache
from nnunet_pt.training.patches import PatchSource

corners = st.tuples(*(st.integers(-15, 20) for _ in range(3)))
patch_sizes = st.tuples(*(st.integers(1, 18) for _ in range(3)))


def naive(array: Any, corner: tuple[int, ...], size: tuple[int, ...], outside: int) -> Any:
    """Voxel by voxel."""
    result = np.full((array.shape[0], *size), outside, array.dtype)
    touched = True
    for axis in range(3):
        touched &= any(0 <= corner[axis] + i < array.shape[axis + 1] for i in range(size[axis]))
    if not touched:
        return np.zeros_like(result)
    for index in np.ndindex(*size):
        position = tuple(c + i for c, i in zip(corner, index, strict=True))
        if all(0 <= p < n for p, n in zip(position, array.shape[1:], strict=True)):
            result[(slice(None), *index)] = array[(slice(None), *position)]
    return result


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PatchSource:
    folder = tmp_path_factory.mktemp("cases")
    write_case(folder, "a", 0)
    return PatchSource(folder, ["a"])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corner=corners, size=patch_sizes)
def test_patches_are_cut_and_padded(source: PatchSource, corner: tuple[int, ...], size: tuple[int, ...]) -> None:
    image, segmentation = make_arrays(0)
    found_image, found_segmentation = source.read("a", corner, size)
    assert found_image.dtype == torch.float32
    assert found_segmentation.dtype == torch.int16
    assert np.array_equal(found_image.numpy(), naive(image, corner, size, 0))
    assert np.array_equal(found_segmentation.numpy(), naive(segmentation, corner, size, -1))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), corner=corners, size=patch_sizes)
def test_only_a_region_is_needed(
    source: PatchSource, data: st.DataObject, corner: tuple[int, ...], size: tuple[int, ...]
) -> None:
    bounds = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2))) for n in size]
    region = tuple(slice(a, b) for a, b in bounds)
    for whole, part in zip(source.read("a", corner, size), source.read("a", corner, size, region), strict=True):
        index = (slice(None), *region)
        assert part.shape == whole.shape
        assert torch.equal(part[index], whole[index])
        part[index] = 0
        assert not part.any()


def test_slices_have_two_axes(source: PatchSource) -> None:
    image, segmentation = make_arrays(0)
    found_image, found_segmentation = source.read("a", (5, 8, -2), (10, 9))
    assert np.array_equal(found_image.numpy(), naive(image, (5, 8, -2), (1, 10, 9), 0)[:, 0])
    assert np.array_equal(found_segmentation.numpy(), naive(segmentation, (5, 8, -2), (1, 10, 9), -1)[:, 0])
    part, _ = source.read("a", (5, 8, -2), (10, 9), (slice(1, 4), slice(2, 6)))
    assert torch.equal(part[:, 1:4, 2:6], found_image[:, 1:4, 2:6])


def test_results_can_be_overwritten(source: PatchSource) -> None:
    for tensor in source.read("a", (0, 0, 0), SHAPE):
        before = tensor.clone()
        tensor += 1
        assert torch.equal(tensor, before + 1)
    image, _ = source.read("a", (0, 0, 0), SHAPE)
    assert np.array_equal(image.numpy(), make_arrays(0)[0])


def test_other_number_types(tmp_path: Path) -> None:
    image, segmentation = write_case(tmp_path, "a", 0)
    write_array(tmp_path / "a.b2nd", image.astype(np.float16), (8, 8, 8))
    write_array(tmp_path / "a_seg.b2nd", segmentation.astype(np.int8), (8, 8, 8))
    found_image, found_segmentation = PatchSource(tmp_path, ["a"]).read("a", (-1, 0, 0), SHAPE)
    assert found_image.dtype == torch.float32
    assert found_segmentation.dtype == torch.int16
    assert int(found_segmentation.min()) == -1
    assert torch.equal(found_image[:, 1:], torch.from_numpy(image.astype(np.float16).astype(np.float32))[:, :-1])


def test_locations_of_classes(source: PatchSource) -> None:
    _, segmentation = make_arrays(0)
    locations = source.class_locations("a")
    assert locations.keys == (1, 2)
    for key in (1, 2):
        for number in range(locations.count(key)):
            assert segmentation[(0, *locations.voxel(key, number))] == key


def test_cached_locations_stay_within_their_bound(tmp_path: Path) -> None:
    source = make_source(tmp_path, 5)
    each = source.class_locations("case_000").nbytes
    cache = LocationCache(limit_bytes=3 * each)
    for case in (*source.cases, *source.cases):
        cache.get(case, tmp_path / f"{case}.pkl", lambda case=case: source.shape(case))  # type: ignore[misc]
    assert sum(c.nbytes for c in cache._cases.values()) <= 3 * each
    assert list(cache._cases)[-1] == source.cases[-1]


def test_open_files_stay_within_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "MOST_OPEN_CASES", 2)
    source = make_source(tmp_path, 5)
    for case in (*source.cases, *source.cases):
        source.read(case, (0, 0, 0), (4, 4, 4))
    opened = [str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.exists()]
    assert len(source._open) == 2
    assert sum(str(tmp_path) in name for name in opened) <= 4


def test_source_can_be_sent(source: PatchSource) -> None:
    source.read("a", (0, 0, 0), (4, 4, 4))
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy.read("a", (1, 2, 3), (4, 4, 4))[0], source.read("a", (1, 2, 3), (4, 4, 4))[0])


# --- cascade ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["b2nd", "npz"])
@pytest.mark.parametrize("axes", [3, 4])
def test_previous_stage_is_a_second_layer(tmp_path: Path, kind: str, axes: int) -> None:
    write_case(tmp_path, "a", 0)
    previous = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    stored = previous if axes == 3 else previous[None]
    folder = tmp_path / "predicted"
    folder.mkdir()
    if kind == "b2nd":
        write_array(folder / "a.b2nd", stored, (8, 8, 8)) if axes == 4 else write_plain(folder / "a.b2nd", stored)
    else:
        np.savez_compressed(folder / "a.npz", seg=stored)
    source = PatchSource(tmp_path, ["a"], previous_stage_folder=folder)
    _, found = source.read("a", (-2, -2, 5), (14, 8, 9))
    assert found.shape == (2, 14, 8, 9)
    assert np.array_equal(found[:1].numpy(), naive(make_arrays(0)[1], (-2, -2, 5), (14, 8, 9), -1))
    assert np.array_equal(found[1:].numpy(), naive(previous[None].astype(np.int16), (-2, -2, 5), (14, 8, 9), -1))


def write_plain(path: Path, array: Any) -> None:
    import blosc2

    blosc2.asarray(np.ascontiguousarray(array), urlpath=str(path))


def test_previous_stage_of_another_size(tmp_path: Path) -> None:
    write_case(tmp_path, "a", 0)
    folder = tmp_path / "predicted"
    write_array(folder / "a.b2nd", np.zeros((1, 5, 5, 5), np.uint8), (8, 8, 8))
    with pytest.raises(StorageError, match=r"case a[\s\S]*\(5, 5, 5\)[\s\S]*\(9, 14, 12\)"):
        PatchSource(tmp_path, ["a"], previous_stage_folder=folder).read("a", (0, 0, 0), (4, 4, 4))


def test_missing_predictions_are_named(tmp_path: Path) -> None:
    write_case(tmp_path, "a", 0)
    with pytest.raises(StorageError, match=r"missing: a[\s\S]*train the previous stage"):
        PatchSource(tmp_path, ["a"], previous_stage_folder=tmp_path / "predicted")


# --- folders with npz files --------------------------------------------------------------------------------


def to_npz(folder: Path, case: str) -> None:
    image, segmentation = make_arrays(0)
    np.savez_compressed(folder / f"{case}.npz", data=image, seg=segmentation)
    (folder / f"{case}.b2nd").unlink()
    (folder / f"{case}_seg.b2nd").unlink()


def test_archives_are_unpacked_once(tmp_path: Path) -> None:
    image, segmentation = write_case(tmp_path, "a", 0)
    to_npz(tmp_path, "a")
    for _ in range(2):
        found = PatchSource(tmp_path, ["a"]).read("a", (-1, 0, 2), (5, 5, 5))
        assert np.array_equal(found[0].numpy(), naive(image, (-1, 0, 2), (5, 5, 5), 0))
        assert np.array_equal(found[1].numpy(), naive(segmentation, (-1, 0, 2), (5, 5, 5), -1))
        times = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy")}
        assert set(times) == {"a.npy", "a_seg.npy"}
    (tmp_path / "a.npz").unlink()
    found = PatchSource(tmp_path, ["a"]).read("a", (0, 0, 0), SHAPE)
    assert np.array_equal(found[0].numpy(), image)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy")} == times


def test_archive_that_was_made_again_is_unpacked_again(tmp_path: Path) -> None:
    image, _ = write_case(tmp_path, "a", 0)
    to_npz(tmp_path, "a")
    for name in ("a.npy", "a_seg.npy"):
        np.save(tmp_path / name, np.zeros((1, 3, 3, 3), np.float32))
        os.utime(tmp_path / name, (1, 1))
    found = PatchSource(tmp_path, ["a"]).read("a", (0, 0, 0), SHAPE)
    assert np.array_equal(found[0].numpy(), image)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_damaged_archives_are_named(tmp_path: Path, name: str) -> None:
    write_case(tmp_path, "a", 0)
    to_npz(tmp_path, "a")
    PatchSource(tmp_path, ["a"]).read("a", (0, 0, 0), (2, 2, 2))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StorageError, match=f"{name} is damaged"):
        PatchSource(tmp_path, ["a"]).read("a", (0, 0, 0), (2, 2, 2))


# --- bad input ----------------------------------------------------------------------------------------------


def test_missing_cases_are_all_named(tmp_path: Path) -> None:
    write_case(tmp_path, "a", 0)
    write_case(tmp_path, "b", 0)
    (tmp_path / "b_seg.b2nd").unlink()
    with pytest.raises(StorageError, match=r"missing: b, c\n[\s\S]*nnUNetv2_preprocess"):
        PatchSource(tmp_path, ["a", "b", "c"])
    with pytest.raises(StorageError, match="does not hold all cases"):
        PatchSource(tmp_path / "nowhere", ["a"])
    with pytest.raises(StorageError, match="no cases"):
        PatchSource(tmp_path, [])
    many = [f"x{i}" for i in range(30)]
    with pytest.raises(StorageError, match="x9 and 20 more"):
        PatchSource(tmp_path, many)


@pytest.mark.parametrize("size", [0, 10, -30])
def test_truncated_files_are_named(tmp_path: Path, size: int) -> None:
    write_case(tmp_path, "a", 0)
    source = PatchSource(tmp_path, ["a"])
    path = tmp_path / "a.b2nd"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StorageError, match=r"a\.b2nd is damaged"):
        source.read("a", (0, 0, 0), (4, 4, 4))


@pytest.mark.parametrize(
    "properties",
    [{}, {"class_locations": {1: np.zeros((3, 2))}}, {"class_locations": {1: [(0, 99, 0, 0)]}}, {"class_locations": 3}],
)
def test_unusable_locations_are_named(tmp_path: Path, properties: Any) -> None:
    write_case(tmp_path, "a", 0)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(properties))
    with pytest.raises(StorageError, match=r"a\.pkl does not say where the classes"):
        PatchSource(tmp_path, ["a"]).class_locations("a")
