"""The fingerprint of a dataset: spacings, shapes and foreground intensities (``dataset_fingerprint.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import PlansError
from nnunet_pt.core.files import read_json, write_json
from nnunet_pt.plans.reading import Findings, ObjectReader, in_order, is_integer, is_number

FILE_NAME = "dataset_fingerprint.json"
INTENSITY_KEY = "foreground_intensity_properties_per_channel"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityProperties:
    """Statistics of one channel's foreground intensities over the whole dataset, in the units of the image.

    Attributes:
        extra: Entries of the file that are not known here.
        key_order: Keys as they were in the file.
    """

    max: float
    mean: float
    median: float
    min: float
    percentile_00_5: float
    percentile_99_5: float
    std: float
    extra: Mapping[str, Any] = field(default_factory=dict)
    key_order: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def read(cls, reader: ObjectReader) -> IntensityProperties:
        """Take the statistics from a JSON object; problems are noted in the reader's findings."""
        return cls(
            max=reader.number("max"),
            mean=reader.number("mean"),
            median=reader.number("median"),
            min=reader.number("min"),
            percentile_00_5=reader.number("percentile_00_5"),
            percentile_99_5=reader.number("percentile_99_5"),
            std=reader.number("std"),
            extra=reader.rest(),
            key_order=tuple(reader.data),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        names = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")
        return in_order({n: getattr(self, n) for n in names} | dict(self.extra), self.key_order, {})


def read_intensities(data: Mapping[str, Any], findings: Findings, place: str) -> dict[str, IntensityProperties]:
    """Statistics of all channels: channel number as text -> statistics."""
    return {k: IntensityProperties.read(ObjectReader(v, findings, f"{place}.{k}")) for k, v in data.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What planning needs to know of the training cases.

    Attributes:
        spacings: Per case, mm per voxel along each array axis, as the reader gives it.
        shapes_after_crop: Per case, voxels along each array axis after cropping to the nonzero region.
        median_relative_size_after_cropping: Median over cases of voxels after cropping / voxels before.
        foreground_intensity_properties_per_channel: Channel number as text -> statistics.
        extra: Entries of the file that are not known here.
        key_order: Keys as they were in the file.
    """

    spacings: tuple[tuple[float, ...], ...]
    shapes_after_crop: tuple[tuple[int, ...], ...]
    median_relative_size_after_cropping: float
    foreground_intensity_properties_per_channel: Mapping[str, IntensityProperties]
    extra: Mapping[str, Any] = field(default_factory=dict)
    key_order: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def from_json(cls, data: object, source: Path | str) -> Fingerprint:
        """Read a fingerprint.

        Args:
            data: The parsed JSON.
            source: Named in errors.

        Raises:
            PlansError: With every missing or wrong entry.
        """
        findings = Findings("fingerprint", source)
        reader = ObjectReader(data, findings)
        fingerprint = cls(
            spacings=reader.rows("spacings", "positive numbers", lambda v: is_number(v) and v > 0),
            shapes_after_crop=reader.rows("shapes_after_crop", "whole numbers", lambda v: is_integer(v) and v > 0),
            median_relative_size_after_cropping=reader.number("median_relative_size_after_cropping"),
            foreground_intensity_properties_per_channel=read_intensities(
                reader.mapping(INTENSITY_KEY), findings, INTENSITY_KEY
            ),
            extra=reader.rest(),
            key_order=tuple(reader.data),
        )
        spacings, shapes = fingerprint.spacings, fingerprint.shapes_after_crop
        if not findings.items and len(spacings) != len(shapes):
            findings.add("shapes_after_crop", f"has {len(shapes)} cases, but spacings has {len(spacings)}")
        findings.raise_if_any()
        return fingerprint

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        """Read ``dataset_fingerprint.json``.

        Raises:
            PlansError: If it is missing or has missing or wrong entries.
            StorageError: If it cannot be read or is not JSON.
        """
        if not path.is_file():
            number = str(int(path.parent.name[7:10])) if path.parent.name[7:10].isdigit() else "ID"
            raise PlansError(
                f"There is no fingerprint {path}.", remedy=f"make it with  nnUNetv2_extract_fingerprint -d {number}"
            )
        return cls.from_json(read_json(path), path)

    def to_json(self) -> dict[str, Any]:
        """The JSON object, as nnU-Net writes it."""
        values: dict[str, Any] = {
            INTENSITY_KEY: {k: v.to_json() for k, v in self.foreground_intensity_properties_per_channel.items()},
            "median_relative_size_after_cropping": self.median_relative_size_after_cropping,
            "shapes_after_crop": [list(s) for s in self.shapes_after_crop],
            "spacings": [list(s) for s in self.spacings],
        }
        return in_order(values | dict(self.extra), self.key_order, {})

    def save(self, path: Path) -> None:
        """Write the file (sorted keys, as nnU-Net does)."""
        write_json(path, self.to_json(), sort_keys=True)
