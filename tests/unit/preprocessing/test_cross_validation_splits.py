"""Splits are nnU-Net's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.core.errors import DatasetError, StorageError
from nnunet_pt.preprocessing.splits import load_or_make_splits, load_splits, make_splits, random_split

TEN = [f"c{i:02d}" for i in range(10)]


def test_recorded_folds() -> None:
    wanted = [{"c00", "c07"}, {"c03", "c09"}, {"c04", "c06"}, {"c01", "c08"}, {"c02", "c05"}]
    for order in (TEN, TEN[::-1]):
        splits = make_splits(order)
        assert [set(s.val) for s in splits] == wanted
        assert all(list(s.val) == sorted(s.val) and list(s.train) == sorted(s.train) for s in splits)


def test_recorded_random_split() -> None:
    split = random_split(TEN[::-1], 7)
    assert list(split.train) == [TEN[i] for i in (4, 6, 0, 9, 1, 7, 2, 8)]
    assert split.val == ("c03", "c05")


@given(number=st.integers(5, 60))
def test_every_case_is_validated_once(number: int) -> None:
    cases = [f"case_{i}" for i in range(number)]
    splits = make_splits(cases)
    assert len(splits) == 5
    assert sorted(c for s in splits for c in s.val) == sorted(cases)
    for split in splits:
        assert sorted(split.train + split.val) == sorted(cases)
        assert number // 5 <= len(split.val) <= -(-number // 5)


@given(number=st.integers(1, 40), fold=st.integers(5, 30))
def test_random_splits_are_disjoint_and_complete(number: int, fold: int) -> None:
    cases = [f"case_{i}" for i in range(number)]
    split = random_split(cases, fold)
    assert sorted(split.train + split.val) == sorted(cases)
    assert len(split.train) == int(0.8 * number)
    assert split == random_split(cases, fold)


@pytest.mark.parametrize(
    ("number", "folds"),
    [
        (5, [[0], [4], [3], [1], [2]]),
        (7, [[3, 6], [0, 4], [1], [5], [2]]),
        (23, [[3, 8, 10, 17, 19], [0, 7, 12, 15, 16], [6, 11, 14, 18, 20], [9, 13, 21, 22], [1, 2, 4, 5]]),
    ],
)
def test_folds_of_scikit_learn(number: int, folds: list[list[int]]) -> None:
    """Recorded from KFold(5, shuffle=True, random_state=12345), which nnU-Net uses."""
    splits = make_splits([f"{i:03d}" for i in range(number)])
    assert [[int(name) for name in s.val] for s in splits] == folds


def test_too_few_cases() -> None:
    with pytest.raises(DatasetError, match="4 cases cannot be split into 5 folds") as caught:
        make_splits(TEN[:4])
    assert "splits_final.json" in caught.value.text()


def test_first_use_writes_the_file_and_later_uses_respect_it(tmp_path: Path) -> None:
    splits = load_or_make_splits(tmp_path, TEN)
    written = json.loads((tmp_path / "splits_final.json").read_text())
    assert written == [{"train": list(s.train), "val": list(s.val)} for s in splits]
    own = [{"train": ["a"], "val": ["b"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(own))
    assert [s.to_json() for s in load_or_make_splits(tmp_path, TEN)] == own


@pytest.mark.parametrize("content", ['{"train": []}', "[1]", '[{"train": ["a"]}]', '[{"train": "a", "val": []}]', "["])
def test_files_that_are_no_splits_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(content)
    with pytest.raises(StorageError, match=r"splits_final\.json"):
        load_splits(path)
    with pytest.raises(StorageError, match="no such file"):
        load_splits(tmp_path / "absent.json")


def test_few_cases_are_left_out_one_at_a_time(tmp_path: Path) -> None:
    splits = load_or_make_splits(tmp_path, ["a", "b", "c"])
    assert sorted(s.val for s in splits) == [("a",), ("b",), ("c",)]
    assert all(sorted((*s.train, *s.val)) == ["a", "b", "c"] for s in splits)
    assert load_splits(tmp_path / "splits_final.json") == splits
