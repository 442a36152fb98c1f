"""dataset.json: what the channels and labels of a dataset are.

All forms are understood: nnU-Net v2 (labels, regions, ignore label, explicit table of cases), ``modality`` instead of
``channel_names``, and nnU-Net v1 (labels written as ``{"0": "background"}``).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import DatasetError
from nnunet_pt.core.files import read_json
from nnunet_pt.dataset.labels import BACKGROUND, LabelValue, label_findings

FILE_NAME = "dataset.json"
V1_FILE_ENDING = ".nii.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplicitCase:
    """A row of the ``dataset`` table, as written: paths may be relative and hold environment variables.

    Attributes:
        images: One path for each channel.
        label: Path of the segmentation, ``None`` if there is none.
    """

    images: tuple[str, ...]
    label: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDescription:
    """dataset.json.

    Attributes:
        channel_names: Names in the order of the channel numbers.
        labels: Name to value in the file's order; a region is the tuple of values it unites.
        regions_class_order: The value each region writes into a segmentation.
        num_training: ``numTraining``.
        file_ending: With its leading dot.
        overwrite_image_reader_writer: Name of the reader to use; ``None`` for an automatic choice.
        cases: The ``dataset`` table, or ``None`` if cases are found in imagesTr and labelsTr.
        upgraded_from: Which older form the file had, or ``None``.
        raw: The JSON as read.
        notes: Oddities that were put right and are worth telling: key to text.
    """

    channel_names: tuple[str, ...]
    labels: Mapping[str, LabelValue]
    regions_class_order: tuple[int, ...] | None = None
    num_training: int | None = None
    file_ending: str
    overwrite_image_reader_writer: str | None = None
    cases: Mapping[str, ExplicitCase] | None = None
    upgraded_from: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> DatasetDescription:
        """Read a dataset.json.

        Raises:
            DatasetError: If it is missing, or with everything that is wrong in it.
            StorageError: If it cannot be read or is not JSON.
        """
        if not path.is_file():
            raise DatasetError(
                f"{path} is missing.", remedy=f"a dataset is a folder with {FILE_NAME}, imagesTr and labelsTr"
            )
        return cls.from_json(read_json(path), path)

    @classmethod
    def from_json(cls, data: Any, source: Path) -> DatasetDescription:
        """Check and convert parsed JSON.

        Args:
            data: The JSON.
            source: Where it comes from, for messages.

        Raises:
            DatasetError: With everything that is wrong.
        """
        if not isinstance(data, Mapping):
            raise DatasetError(f"{source} is not a dataset description.", found=type(data).__name__, expected="{...}")
        parser = _Parser(data)
        channel_names = parser.channel_names()
        labels = parser.labels()
        order = parser.regions_class_order()
        if not parser.findings:
            parser.findings += label_findings(labels, order)
        result = cls(
            channel_names=channel_names,
            labels=labels,
            regions_class_order=order,
            num_training=parser.num_training(),
            file_ending=parser.file_ending(),
            overwrite_image_reader_writer=parser.reader_name(),
            cases=parser.cases(len(channel_names)),
            upgraded_from=parser.upgraded_from,
            raw=copy.deepcopy(dict(data)),
            notes=parser.notes,
        )
        if parser.findings:
            raise DatasetError(
                f"{source} cannot be used:\n" + "\n".join(f"  - {text}" for text in parser.findings),
                remedy="correct the file in a text editor",
            )
        return result

    @property
    def num_channels(self) -> int:
        """Number of image channels."""
        return len(self.channel_names)

    def to_json(self) -> dict[str, Any]:
        """The description in nnU-Net v2's form; unknown keys, and the order of keys, as they were."""
        renamed = "channel_names" not in self.raw
        result = {
            ("channel_names" if key == "modality" and renamed else key): copy.deepcopy(value)
            for key, value in self.raw.items()
        }
        result["channel_names"] = {str(i): name for i, name in enumerate(self.channel_names)}
        result["labels"] = {k: v if isinstance(v, int) else list(v) for k, v in self.labels.items()}
        if self.num_training is not None:
            result["numTraining"] = self.num_training
        result["file_ending"] = self.file_ending
        if self.regions_class_order is not None:
            result["regions_class_order"] = list(self.regions_class_order)
        if _reader_name(result.get("overwrite_image_reader_writer")) != self.overwrite_image_reader_writer:
            result["overwrite_image_reader_writer"] = self.overwrite_image_reader_writer
        if self.cases is not None and "dataset" not in result:
            result["dataset"] = {k: {"images": list(c.images), "label": c.label} for k, c in self.cases.items()}
        return result


class _Parser:
    """Reads one key after the other and notes what is wrong."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.findings: list[str] = []
        self.notes: dict[str, str] = {}
        labels = data.get("labels")
        self.v1_labels = isinstance(labels, Mapping) and bool(labels) and all(map(_is_v1_label, labels.items()))
        self.modality = "channel_names" not in data and "modality" in data

    @property
    def upgraded_from(self) -> str | None:
        if self.v1_labels:
            return "nnU-Net v1"
        return "modality instead of channel_names" if self.modality else None

    def channel_names(self) -> tuple[str, ...]:
        key = "modality" if self.modality else "channel_names"
        channels = self.data.get(key)
        if not isinstance(channels, Mapping) or not channels:
            found = "is missing" if key not in self.data else f"is {json.dumps(channels)}"
            self.findings.append(f'"channel_names" {found}; write for example "channel_names": {{"0": "MRI"}}')
            return ()
        if all(isinstance(name, str) and _is_index(name) for name in channels):
            indices = [int(name) for name in channels]
            if sorted(indices) != list(range(len(indices))):
                self.findings.append(f'the keys of "{key}" are {", ".join(channels)}; they must count 0, 1, 2...')
            if any(not isinstance(name, str) for name in channels.values()):
                self.findings.append(f'"{key}" has names that are not text: {json.dumps(channels)}')
            ordered = tuple(str(channels[k]) for k in sorted(channels, key=int))
            if ordered != tuple(map(str, channels.values())):
                self.notes["channel_order"] = (
                    f'the keys of "{key}" are out of order ({", ".join(channels)}): nnU-Net would normalise channel 0'
                    f" as {next(iter(channels.values()))}. Here the number counts; write them in order"
                )
            return ordered
        turned = {str(value): name for name, value in channels.items()}
        if sorted(turned) == sorted(str(i) for i in range(len(channels))):
            turned = {str(i): turned[str(i)] for i in range(len(channels))}
            self.findings.append(f'"{key}" is the wrong way round; write "channel_names": {json.dumps(turned)}')
        else:
            self.findings.append(
                f'the keys of "{key}" are {", ".join(map(str, channels))}; they must be the channel numbers "0", "1"...'
            )
        return ()

    def labels(self) -> dict[str, LabelValue]:
        labels = self.data.get("labels")
        if not isinstance(labels, Mapping) or not labels:
            found = "is missing" if "labels" not in self.data else f"is {json.dumps(labels)}"
            self.findings.append(f'"labels" {found}; write for example "labels": {{"background": 0, "tumour": 1}}')
            return {}
        if self.v1_labels:
            return self._v1_labels(labels)
        result: dict[str, LabelValue] = {}
        for name, value in labels.items():
            if _is_integer(value):
                result[name] = value
            elif isinstance(value, Sequence) and value and all(map(_is_integer, value)):
                result[name] = tuple(value)
            else:
                self.findings.append(
                    f'label "{name}" is {json.dumps(value)}; it must be a whole number, or a list of them for a region'
                )
        return result

    def _v1_labels(self, labels: Mapping[str, str]) -> dict[str, LabelValue]:
        names = {int(value): name for value, name in labels.items()}
        if names.get(0, BACKGROUND) != BACKGROUND and BACKGROUND not in names.values():
            self.notes["background_name"] = f'label 0 is called "{names[0]}"; it is taken as "{BACKGROUND}"'
            names[0] = BACKGROUND
        twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
        if twice:
            self.findings.append(f"several labels have the same name: {', '.join(twice)}")
        return {name: value for value, name in sorted(names.items())}

    def regions_class_order(self) -> tuple[int, ...] | None:
        order = self.data.get("regions_class_order")
        if order is None:
            return None
        if not isinstance(order, Sequence) or not all(map(_is_integer, order)):
            self.findings.append(f'"regions_class_order" is {json.dumps(order)}; it must be a list of whole numbers')
            return None
        return tuple(order)

    def num_training(self) -> int | None:
        number = self.data.get("numTraining")
        if number is not None and not _is_integer(number):
            self.findings.append(f'"numTraining" is {json.dumps(number)}; it must be the number of training cases')
            return None
        return number

    def file_ending(self) -> str:
        ending = self.data.get("file_ending")
        if ending is None and self.upgraded_from:
            return V1_FILE_ENDING
        if not isinstance(ending, str) or not ending.strip("."):
            found = "is missing" if ending is None else f"is {json.dumps(ending)}"
            self.findings.append(f'"file_ending" {found}; write for example "file_ending": ".nii.gz"')
            return ""
        if not ending.startswith("."):
            self.findings.append(f'"file_ending" is "{ending}" without a dot; write "file_ending": ".{ending}"')
        return ending

    def reader_name(self) -> str | None:
        name = self.data.get("overwrite_image_reader_writer")
        if name is not None and not isinstance(name, str):
            self.findings.append(f'"overwrite_image_reader_writer" is {json.dumps(name)}; it must be a name')
            return None
        return _reader_name(name)

    def cases(self, num_channels: int) -> dict[str, ExplicitCase] | None:
        table = self.data.get("dataset")
        if table is None:
            return None
        if not isinstance(table, Mapping):
            self.findings.append('"dataset" must be a table: {"case": {"images": [...], "label": "..."}}')
            return None
        result: dict[str, ExplicitCase] = {}
        for name, row in table.items():
            images = row.get("images") if isinstance(row, Mapping) else None
            if isinstance(images, str) or not isinstance(images, Sequence) or not images:
                self.findings.append(f'case "{name}" of the "dataset" table has no list of "images"')
                continue
            label = row.get("label")
            if not all(isinstance(p, str) for p in images) or not (label is None or isinstance(label, str)):
                self.findings.append(f'case "{name}" of the "dataset" table has paths that are not text')
                continue
            if num_channels and len(images) not in (1, num_channels):
                self.findings.append(f'case "{name}" lists {len(images)} images for {num_channels} channels')
            result[name] = ExplicitCase(images=tuple(images), label=label)
        return result


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_v1_label(item: tuple[Any, Any]) -> bool:
    key, value = item
    return isinstance(key, str) and _is_index(key) and isinstance(value, str) and not _is_index(value)


def _reader_name(value: str | None) -> str | None:
    return None if value in (None, "None", "") else value
