"""dataset.json in all its forms, and what is said about wrong ones."""

from __future__ import annotations

import json
import pickle
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.core.errors import DatasetError, StorageError
from nnunet_pt.dataset.description import DatasetDescription, ExplicitCase

SOURCE = Path("dataset.json")
PLAIN: dict[str, Any] = {
    "channel_names": {"0": "FLAIR", "1": "T1c"},
    "labels": {"background": 0, "tumour": 1},
    "numTraining": 4,
    "file_ending": ".nii.gz",
}


def parse(**changes: Any) -> DatasetDescription:
    data = {k: v for k, v in {**PLAIN, **changes}.items() if v is not ...}
    return DatasetDescription.from_json(data, SOURCE)


def error_of(**changes: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        parse(**changes)
    assert "dataset.json" in str(caught.value)
    return str(caught.value)


def test_plain_file() -> None:
    description = parse()
    assert description.channel_names == ("FLAIR", "T1c")
    assert description.num_channels == 2
    assert description.labels == {"background": 0, "tumour": 1}
    assert description.num_training == 4
    assert (description.upgraded_from, description.cases, description.notes) == (None, None, {})


def test_regions_become_tuples() -> None:
    description = parse(labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])
    assert description.labels == {"background": 0, "whole": (1, 2), "core": 2}
    assert description.regions_class_order == (1, 2)


def test_nnunet_v1_file_is_upgraded() -> None:
    data = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "2": "tumour", "1": "liver"},
        "numTraining": 3,
        "numTest": 0,
        "tensorImageSize": "3D",
    }
    description = DatasetDescription.from_json(data, SOURCE)
    assert description.upgraded_from == "nnU-Net v1"
    assert description.channel_names == ("CT",)
    assert description.labels == {"background": 0, "liver": 1, "tumour": 2}
    assert description.file_ending == ".nii.gz"
    written = description.to_json()
    assert written["channel_names"] == {"0": "CT"} and "modality" not in written
    assert written["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert written["tensorImageSize"] == "3D"
    assert DatasetDescription.from_json(written, SOURCE).labels == description.labels


def test_modality_with_v2_labels() -> None:
    description = parse(channel_names=..., modality={"0": "MRI"})
    assert description.channel_names == ("MRI",)
    assert description.upgraded_from == "modality instead of channel_names"


def test_v1_background_with_another_name_is_renamed_and_noted() -> None:
    description = parse(labels={"0": "clear label", "1": "liver"})
    assert description.labels == {"background": 0, "liver": 1}
    assert "clear label" in description.notes["background_name"]


@pytest.mark.parametrize("channels", [{"MRI": 0}, {"MRI": "0"}, {"T2": 1, "T1": 0}])
def test_channels_the_wrong_way_round_are_shown_corrected(channels: dict[str, Any]) -> None:
    text = error_of(channel_names=channels)
    right = {str(number): name for name, number in sorted(channels.items(), key=lambda item: int(item[1]))}
    assert json.dumps(right) in text


def test_channels_out_of_order_are_sorted_and_noted() -> None:
    description = parse(channel_names={"1": "MRI", "0": "CT"})
    assert description.channel_names == ("CT", "MRI")
    assert "out of order" in description.notes["channel_order"]


@pytest.mark.parametrize("name", [None, "None", ""])
def test_unset_reader(name: str | None) -> None:
    assert parse(overwrite_image_reader_writer=name).overwrite_image_reader_writer is None


def test_reader_by_name_is_kept() -> None:
    assert parse(overwrite_image_reader_writer="NibabelIO").overwrite_image_reader_writer == "NibabelIO"


def test_case_table() -> None:
    table = {
        "a": {"images": ["$DATA/a_0.nrrd", "x/a_1.nrrd"], "label": "a.nrrd"},
        "b": {"images": ["b.nrrd", "c.nrrd"]},
    }
    description = parse(dataset=table)
    assert description.cases == {
        "a": ExplicitCase(images=("$DATA/a_0.nrrd", "x/a_1.nrrd"), label="a.nrrd"),
        "b": ExplicitCase(images=("b.nrrd", "c.nrrd"), label=None),
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file_ending": "nii.gz"}, ["without a dot", '".nii.gz"']),
        ({"file_ending": ...}, ["file_ending", "missing"]),
        ({"channel_names": ...}, ["channel_names", "missing"]),
        ({"channel_names": {"0": "a", "2": "b"}}, ["0, 2", "count"]),
        ({"channel_names": {"first": "a"}}, ["first", "channel numbers"]),
        ({"labels": ...}, ["labels", "missing"]),
        ({"labels": {"background": 0, "x": "1"}}, ['label "x"', "whole number"]),
        ({"labels": {"background": 0, "x": 1.5}}, ['label "x"', "1.5"]),
        ({"labels": {"background": 0, "x": True}}, ['label "x"']),
        ({"labels": {"x": 1}}, ["background", "missing"]),
        ({"labels": {"background": 1, "x": 0}}, ["background", "value 0"]),
        ({"labels": {"background": 0, "x": 1, "ignore": 3}}, ["ignore", "2"]),
        ({"labels": {"background": 0, "x": [1, 2]}}, ["regions_class_order"]),
        ({"labels": {"background": 0, "x": [1, 2]}, "regions_class_order": [1, 2]}, ["2 values for 1 regions"]),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, ["same name", "a"]),
        ({"numTraining": "4"}, ["numTraining"]),
        ({"regions_class_order": "12"}, ["regions_class_order"]),
        ({"overwrite_image_reader_writer": 3}, ["overwrite_image_reader_writer"]),
        ({"dataset": {"a": {"label": "x"}}}, ['case "a"', "images"]),
        ({"dataset": {"a": {"images": ["1", "2", "3"], "label": "x"}}}, ['case "a"', "3 images for 2 channels"]),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], words: list[str]) -> None:
    text = error_of(**changes)
    assert all(word in text for word in words), text


def test_everything_wrong_is_reported_at_once() -> None:
    text = error_of(file_ending="png", numTraining=None, channel_names={}, labels={"background": 0, "x": "y"})
    assert text.count("\n  - ") == 3


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.json is missing"):
        DatasetDescription.load(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text('{"labels": ')
    with pytest.raises(StorageError, match="not valid JSON"):
        DatasetDescription.load(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(DatasetError, match="not a dataset description"):
        DatasetDescription.load(tmp_path / "dataset.json")


names = st.text(string.ascii_lowercase, min_size=1, max_size=8).filter(lambda n: n not in ("background", "ignore"))
json_values = st.one_of(st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3))
our_keys = {"channel_names", "modality", "labels", "numTraining", "file_ending", "regions_class_order", "dataset"}


@given(
    channels=st.lists(names, min_size=1, max_size=12),
    labels=st.lists(names, unique=True, max_size=6),
    with_ignore=st.booleans(),
    as_regions=st.booleans(),
    other=st.dictionaries(st.text(max_size=8).filter(lambda k: k not in our_keys), json_values, max_size=3),
    num_training=st.none() | st.integers(0, 10_000),
)
def test_round_trip(
    channels: list[str],
    labels: list[str],
    with_ignore: bool,
    as_regions: bool,
    other: dict[str, Any],
    num_training: int | None,
) -> None:
    data: dict[str, Any] = {**other, "channel_names": {str(i): n for i, n in enumerate(channels)}}
    data["labels"] = {"background": 0, **{name: i for i, name in enumerate(labels, 1)}}
    if as_regions and len(labels) > 1:
        data["labels"][labels[0]] = list(range(1, len(labels) + 1))
        data["regions_class_order"] = list(range(1, len(labels) + 1))
    if with_ignore:
        data["labels"]["ignore"] = len(labels) + 1
    if num_training is not None:
        data["numTraining"] = num_training
    data["file_ending"] = ".nii.gz"
    other.pop("overwrite_image_reader_writer", None)
    description = DatasetDescription.from_json(data, SOURCE)
    assert json.dumps(description.to_json()) == json.dumps(data)
    assert pickle.loads(pickle.dumps(description)) == description
