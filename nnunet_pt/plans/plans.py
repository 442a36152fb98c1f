"""Plans: everything that planning decides and the later steps follow (``nnUNetPlans.json`` and the like)."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import PlansError, UnknownNameError
from nnunet_pt.core.files import read_json, write_json
from nnunet_pt.plans import legacy
from nnunet_pt.plans.configuration import Architecture, Configuration, ResamplingSpec
from nnunet_pt.plans.fingerprint import INTENSITY_KEY, IntensityProperties, read_intensities
from nnunet_pt.plans.pretrain_info import PretrainInfo
from nnunet_pt.plans.reading import Findings, ObjectReader, in_order

__all__ = ["Architecture", "Configuration", "Plans", "PretrainInfo", "ResamplingSpec"]

LEGACY_INTENSITY_KEY = "foreground_intensity_properties_by_modality"
NOT_PLANS = {"dataset", "dataset_fingerprint", "splits_final", "integrity_report"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """A plans file.

    Axes "after transposition" are in plans order: ``transpose_forward[i]`` is the array axis (as the reader gives it)
    that becomes axis ``i``.

    Attributes:
        dataset_name: Name of the dataset's folder.
        plans_name: The plans identifier; the file is called ``<plans_name>.json``.
        original_median_spacing_after_transp: Median spacing of the training cases, mm, after transposition.
        original_median_shape_after_transp: Median shape after cropping, voxels, after transposition.
        image_reader_writer: Name of the reader/writer for the dataset's files.
        transpose_forward: Permutation of the array axes from reader order to plans order.
        transpose_backward: The inverse permutation.
        configurations: Name -> entries as in the file; :meth:`configuration` gives them typed.
        experiment_planner_used: Name of the planner.
        label_manager: nnU-Net's name of the class that interprets labels.
        foreground_intensity_properties_per_channel: Channel number as text -> statistics.
        pretrain_info: Where pre-trained weights come from, if the plans follow a pre-training.
        extra: Entries of the file that are not known here.
        key_order: Keys as they were in the file.
        source: Where the plans come from, for error messages.
    """

    dataset_name: str
    plans_name: str
    original_median_spacing_after_transp: tuple[float, ...]
    original_median_shape_after_transp: tuple[int, ...]
    image_reader_writer: str
    transpose_forward: tuple[int, ...]
    transpose_backward: tuple[int, ...]
    configurations: Mapping[str, Mapping[str, Any]]
    experiment_planner_used: str
    label_manager: str = "LabelManager"
    foreground_intensity_properties_per_channel: Mapping[str, IntensityProperties]
    pretrain_info: PretrainInfo | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    key_order: tuple[str, ...] = field(default=(), repr=False, compare=False)
    source: Path | str = field(default="plans", repr=False, compare=False)

    @classmethod
    def from_json(cls, data: object, source: Path | str) -> Plans:
        """Read plans.

        Configurations are only checked to be objects here; :meth:`configuration` reads them, so that a damaged one
        does not stop work with the others (as in nnU-Net).

        Args:
            data: The parsed JSON.
            source: Named in errors.

        Raises:
            PlansError: With every missing or wrong entry.
        """
        findings = Findings("plans file", source)
        reader = ObjectReader(data, findings)
        intensity_key = _intensity_key(reader.data)
        info = reader.mapping("pretrain_info", default=None)
        plans = cls(
            dataset_name=reader.text("dataset_name"),
            plans_name=reader.text("plans_name"),
            original_median_spacing_after_transp=reader.numbers("original_median_spacing_after_transp"),
            original_median_shape_after_transp=reader.numbers("original_median_shape_after_transp"),  # type: ignore[arg-type]  # whole numbers, kept as written
            image_reader_writer=reader.text("image_reader_writer"),
            transpose_forward=reader.integers("transpose_forward", minimum=0),
            transpose_backward=reader.integers("transpose_backward", minimum=0),
            configurations={
                k: ObjectReader(v, findings, f"configurations.{k}").data
                for k, v in reader.mapping("configurations").items()
            },
            experiment_planner_used=reader.text("experiment_planner_used", default="unknown"),
            label_manager=reader.text("label_manager", default="LabelManager"),
            foreground_intensity_properties_per_channel=read_intensities(
                reader.mapping(intensity_key), findings, intensity_key
            ),
            pretrain_info=PretrainInfo.read(ObjectReader(info, findings, "pretrain_info")) if info else None,
            extra=reader.rest(drop=() if info else ("pretrain_info",)),
            key_order=tuple(reader.data),
            source=source,
        )
        if not findings.items:
            plans._check(findings)
        findings.raise_if_any()
        return plans

    def _check(self, findings: Findings) -> None:
        forward, backward = self.transpose_forward, self.transpose_backward
        if sorted(forward) != [0, 1, 2]:
            findings.add("transpose_forward", f"is {list(forward)}, expected 0, 1, 2 in some order")
        elif [forward.index(a) for a in range(3)] != list(backward):
            findings.add("transpose_backward", f"is {list(backward)}, expected the inverse of {list(forward)}")

    @classmethod
    def load(cls, path: Path) -> Plans:
        """Read a plans file.

        Raises:
            PlansError: If it is missing (the ones that are there are named) or has missing or wrong entries.
            StorageError: If it cannot be read or is not JSON.
        """
        if not path.is_file():
            there = sorted(p.stem for p in path.parent.glob("*.json") if p.stem not in NOT_PLANS)
            raise PlansError(
                f"There is no plans file {path}.",
                found=f"these plans: {', '.join(there)}" if there else None,
                remedy="choose one of them, or make it with  nnUNetv2_plan_experiment"
                if there
                else "make it with  nnUNetv2_plan_experiment",
            )
        return cls.from_json(read_json(path), path)

    def to_json(self) -> dict[str, Any]:
        """The JSON object: entries in the file's order, or in nnU-Net's if the plans do not come from a file."""
        intensities = self.foreground_intensity_properties_per_channel
        values: dict[str, Any] = {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_name,
            "original_median_spacing_after_transp": list(self.original_median_spacing_after_transp),
            "original_median_shape_after_transp": list(self.original_median_shape_after_transp),
            "image_reader_writer": self.image_reader_writer,
            "transpose_forward": list(self.transpose_forward),
            "transpose_backward": list(self.transpose_backward),
            "configurations": {k: dict(v) for k, v in self.configurations.items()},
            "experiment_planner_used": self.experiment_planner_used,
            "label_manager": self.label_manager,
            _intensity_key(self.key_order): {k: v.to_json() for k, v in intensities.items()},
        }
        if self.pretrain_info is not None:
            values["pretrain_info"] = self.pretrain_info.to_json()
        absent = {"experiment_planner_used": "unknown", "label_manager": "LabelManager"}
        return in_order(values | dict(self.extra), self.key_order, absent)

    def save(self, path: Path) -> None:
        """Write the file (unsorted keys, as nnU-Net does)."""
        write_json(path, self.to_json())

    @property
    def configuration_names(self) -> tuple[str, ...]:
        """All configurations, in the file's order."""
        return tuple(self.configurations)

    def configuration(self, name: str) -> Configuration:
        """A configuration with its inheritance resolved.

        Raises:
            UnknownNameError: If there is no such configuration.
            PlansError: If it has missing or wrong entries, or inherits from itself.
        """
        if name not in self.configurations:
            raise UnknownNameError.of(f"configuration in {self.source}", name, self.configurations)
        findings = Findings("plans file", self.source)
        configuration = Configuration.read(name, self._resolved(name, ()), findings)
        findings.raise_if_any()
        return configuration

    def entries(self, name: str) -> dict[str, Any]:
        """The entries of a configuration as nnU-Net writes them today: inheritance resolved, old keys upgraded.

        Raises:
            UnknownNameError: If there is no such configuration.
            PlansError: If it inherits from itself, or old keys cannot be understood.
        """
        if name not in self.configurations:
            raise UnknownNameError.of(f"configuration in {self.source}", name, self.configurations)
        entries = self._resolved(name, ())
        if not legacy.is_legacy(entries):
            return entries
        findings = Findings("plans file", self.source)
        upgraded = legacy.upgraded(entries, findings, f"configurations.{name}")
        findings.raise_if_any()
        return upgraded

    def _resolved(self, name: str, children: tuple[str, ...]) -> dict[str, Any]:
        if name in children:
            raise PlansError(
                f"Configuration {name!r} in {self.source} inherits from itself.",
                found=" -> ".join([*children, name]),
                remedy="correct the inherits_from entries",
            )
        if name not in self.configurations:
            raise PlansError(
                f"Configuration {children[-1]!r} in {self.source} inherits from one that is not there.",
                found=repr(name),
                expected=", ".join(self.configurations),
                remedy="correct its inherits_from entry",
            )
        own = dict(self.configurations[name])
        parent = own.pop("inherits_from", None)
        return own if parent is None else self._resolved(str(parent), (*children, name)) | own


def _intensity_key(keys: Container[str]) -> str:
    """The key of the intensity statistics in a file with these keys; it had another name in nnU-Net 2.0."""
    return LEGACY_INTENSITY_KEY if LEGACY_INTENSITY_KEY in keys and INTENSITY_KEY not in keys else INTENSITY_KEY
