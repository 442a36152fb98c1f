"""Preprocessed cases on disk: exact, deterministic, complete or absent, never executed."""

from __future__ import annotations

import collections
import errno
import os
import pickle
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_pt.core.errors import StorageError
from nnunet_pt.preprocessing.blosc_layout import blocks_and_chunks
from nnunet_pt.preprocessing.store import case_files, load_case, load_properties, save_case, write_array

PROPERTIES = {"spacing": [1.0, 0.5, 0.5], "shape_before_cropping": (9, 17, 20), "class_locations": {1: np.arange(8)}}


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(2, 9, 17, 20)).astype(np.float32), random.integers(-1, 4, (1, 9, 17, 20)).astype(np.int8)


@pytest.fixture
def stored(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> Path:
    save_case(tmp_path, "case", *arrays, PROPERTIES, (8, 16, 16))
    return tmp_path


def test_round_trip(stored: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    assert sorted(p.name for p in stored.iterdir()) == sorted(case_files("case"))
    image, segmentation, properties = load_case(stored, "case")
    assert image.dtype == np.float32 and segmentation.dtype == np.int16
    np.testing.assert_array_equal(image, arrays[0])
    np.testing.assert_array_equal(segmentation, arrays[1])
    assert list(properties) == list(PROPERTIES)
    assert properties["shape_before_cropping"] == (9, 17, 20)
    np.testing.assert_array_equal(properties["class_locations"][1], np.arange(8))


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 3), *[st.integers(1, 40)] * 3),
    patch=st.one_of(st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.integers(1, 40)] * 2)),
    dtype=st.sampled_from([np.float32, np.int16]),
    constant=st.booleans(),
)
def test_any_shape_and_patch_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    patch: tuple[int, ...],
    dtype: type,
    constant: bool,
) -> None:
    path = tmp_path_factory.mktemp("array") / "case.b2nd"
    array = np.zeros(shape, dtype) if constant else np.random.default_rng(1).normal(scale=99, size=shape).astype(dtype)
    write_array(path, array, patch)
    read = blosc2.open(urlpath=str(path), mode="r")
    np.testing.assert_array_equal(read[...], array)
    assert read.dtype == dtype
    assert (read.blocks, read.chunks) == blocks_and_chunks(shape, patch, array.itemsize)


def test_stored_as_nnunet_stores(stored: Path) -> None:
    for name, item in (("case.b2nd", 4), ("case_seg.b2nd", 2)):
        read = blosc2.open(urlpath=str(stored / name), mode="r", mmap_mode="r")
        assert read.schunk.cparams.codec == blosc2.Codec.LZ4HC and read.schunk.cparams.clevel == 5
        used = [f for f in read.schunk.cparams.filters if f != blosc2.Filter.NOFILTER]
        assert used in ([], [blosc2.Filter.SHUFFLE])
        assert (read.blocks, read.chunks) == blocks_and_chunks(read.shape, (8, 16, 16), item)


def test_filter_is_the_one_that_compresses_better(tmp_path: Path) -> None:
    ramp = np.arange(64**3, dtype=np.float32).reshape(1, 64, 64, 64)  # bytes in turn: shuffling pays
    noise = np.random.default_rng(0).integers(0, 2**32, (1, 16, 16, 16), dtype=np.uint32).view(np.float32)
    for array, wanted in ((ramp, [blosc2.Filter.SHUFFLE]), (noise, [])):
        write_array(tmp_path / "a.b2nd", array, (32, 32, 32))
        filters = blosc2.open(urlpath=str(tmp_path / "a.b2nd"), mode="r").schunk.cparams.filters
        assert [f for f in filters if f != blosc2.Filter.NOFILTER] == wanted


def test_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    image = random.normal(size=(2, 70, 90, 80)).astype(np.float32)
    segmentation = random.integers(-1, 3, (1, 70, 90, 80)).astype(np.int16)
    save_case(tmp_path / "a", "case", image, segmentation, PROPERTIES, (32, 32, 32))
    turned = np.ascontiguousarray(image.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    save_case(tmp_path / "b", "case", turned, segmentation.astype(np.int8), PROPERTIES, (32, 32, 32))
    for name in case_files("case"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_failed_writing_leaves_the_old_file_and_nothing_else(
    stored: Path, arrays: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in stored.iterdir()}

    def full(self: Path, _: bytes) -> int:
        self.open("wb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="no space left") as caught:
        save_case(stored, "case", arrays[0] + 1, arrays[1], PROPERTIES, (8, 8, 8))
    assert "case.b2nd" in caught.value.text()
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in stored.iterdir()} == before


@pytest.mark.parametrize("name", case_files("case"))
def test_missing_and_truncated_files_are_named(stored: Path, name: str) -> None:
    content = (stored / name).read_bytes()
    for length in {0, 1, 3, 20, len(content) // 2, len(content) - 1}:
        (stored / name).unlink()
        (stored / name).write_bytes(content[:length])
        with pytest.raises(StorageError, match="is damaged") as caught:
            load_case(stored, "case")
        assert str(stored / name) in caught.value.text() and "--verify" in caught.value.text()
    (stored / name).unlink()
    with pytest.raises(StorageError, match="is missing"):
        load_case(stored, "case")


@settings(
    deadline=None, max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_raise_nothing_but_storage_errors(stored: Path, data: st.DataObject) -> None:
    path = stored / data.draw(st.sampled_from(case_files("case")))
    content = path.read_bytes()
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, min(len(content), 300) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    path.unlink()
    path.write_bytes(damaged)
    try:
        load_case(stored, "case")
    except StorageError as error:
        assert str(path) in error.text()
    finally:
        path.unlink()
        path.write_bytes(content)


class Explosive:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_that_execute_code_are_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "case.pkl"
    path.write_bytes(pickle.dumps({"spacing": Explosive(tmp_path / "boom")}, protocol=protocol))
    with pytest.raises(StorageError, match="is damaged") as caught:
        load_properties(path)
    assert "mkdir" in caught.value.text()
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("content", [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n."])
def test_handmade_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "case.pkl"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="not plain data"):
        load_properties(path)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_properties_as_nnunet_pickles_them(tmp_path: Path, protocol: int) -> None:
    properties = {
        "sitk_stuff": {"spacing": (1.0, 1.0, 3.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0,) * 9},
        "spacing": [3.0, 1.0, np.float64(1.0)],
        "shape_before_cropping": tuple(np.array([3, 4, 5])),
        "nibabel_stuff": {"original_affine": np.eye(4), "order": np.asfortranarray(np.ones((2, 3)))},
        "class_locations": collections.OrderedDict({np.int64(1): np.zeros((3, 4), np.int64), (1, 2): []}),
    }
    path = tmp_path / "case.pkl"
    path.write_bytes(pickle.dumps(properties, protocol=protocol))
    read = load_properties(path)
    assert read["sitk_stuff"] == properties["sitk_stuff"] and read["spacing"] == properties["spacing"]
    assert read["shape_before_cropping"] == (3, 4, 5)
    np.testing.assert_array_equal(read["nibabel_stuff"]["original_affine"], np.eye(4))
    assert list(read["class_locations"]) == [1, (1, 2)]


def test_folders_of_npz_files_are_read(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    np.savez_compressed(tmp_path / "case.npz", data=arrays[0], seg=arrays[1].astype(np.int16))
    (tmp_path / "case.pkl").write_bytes(pickle.dumps(PROPERTIES))
    image, segmentation, properties = load_case(tmp_path, "case")
    np.testing.assert_array_equal(image, arrays[0])
    np.testing.assert_array_equal(segmentation, arrays[1])
    assert properties["spacing"] == PROPERTIES["spacing"]


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_damaged_npz_files_are_named(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray], kept: int) -> None:
    path = tmp_path / "case.npz"
    np.savez_compressed(path, data=arrays[0], seg=arrays[1])
    path.write_bytes(path.read_bytes()[:kept])
    (tmp_path / "case.pkl").write_bytes(pickle.dumps(PROPERTIES))
    with pytest.raises(StorageError, match=r"case\.npz is damaged"):
        load_case(tmp_path, "case")


def test_npz_without_segmentation_and_with_objects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "case.pkl").write_bytes(pickle.dumps(PROPERTIES))
    np.savez(tmp_path / "case.npz", data=np.zeros(3))
    with pytest.raises(StorageError, match="is damaged"):
        load_case(tmp_path, "case")
    np.savez(tmp_path / "case.npz", data=np.array([{}], dtype=object), seg=np.zeros(3))
    with pytest.raises(StorageError, match="is damaged"):
        load_case(tmp_path, "case")
