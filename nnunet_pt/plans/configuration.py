"""One configuration of the plans, such as ``3d_fullres``: typed, inheritance resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunet_pt.plans import legacy
from nnunet_pt.plans.reading import Findings, ObjectReader


@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplingSpec:
    """A resampling function and its arguments.

    Attributes:
        name: nnU-Net's name of the function.
        kwargs: Its keyword arguments.
    """

    name: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network as the plans describe it.

    Attributes:
        network_class_name: nnU-Net's dotted name of the class, or the class name alone.
        arch_kwargs: Arguments of the class, classes given as dotted names.
        requires_import: Those arguments that are dotted names.
    """

    network_class_name: str
    arch_kwargs: Mapping[str, Any]
    requires_import: tuple[str, ...]

    @property
    def short_name(self) -> str:
        """The class name without the package."""
        return self.network_class_name.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One configuration of the plans, e.g. ``3d_fullres``, with inheritance resolved and old keys upgraded.

    Axes are in plans order, that is after ``transpose_forward``; two-dimensional configurations have two axes.

    Attributes:
        name: Name of the configuration.
        data_identifier: Name of the folder with its preprocessed cases.
        preprocessor_name: nnU-Net's name of the preprocessor.
        batch_size: Patches of one training step.
        patch_size: Voxels along each axis.
        median_image_size_in_voxels: Median size of the cases after resampling (may be x.5).
        spacing: Target spacing along each axis, mm; None along axes on which each case keeps its own.
        normalization_schemes: Name of the normalisation of each channel.
        use_mask_for_norm: For each channel, whether only the nonzero region is normalised.
        resampling_data: How images are resampled.
        resampling_seg: How segmentations are resampled.
        resampling_probabilities: How predicted probabilities are resampled.
        architecture: The network.
        batch_dice: Whether the Dice loss takes all patches of a batch as one.
        previous_stage: Configuration whose predictions are an additional input.
        next_stage: Configurations that take this one's predictions.
        extra: Entries of the file that are not known here.
    """

    name: str
    data_identifier: str
    preprocessor_name: str
    batch_size: int
    patch_size: tuple[int, ...]
    median_image_size_in_voxels: tuple[float, ...]
    spacing: tuple[float | None, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_data: ResamplingSpec
    resampling_seg: ResamplingSpec
    resampling_probabilities: ResamplingSpec
    architecture: Architecture
    batch_dice: bool
    previous_stage: str | None = None
    next_stage: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, data: Mapping[str, Any], findings: Findings) -> Configuration:
        """Read a configuration whose inheritance is resolved; problems are noted in ``findings``."""
        place = f"configurations.{name}"
        if legacy.is_legacy(data):
            data = legacy.upgraded(data, findings, place)
        reader = ObjectReader(data, findings, place)
        following = reader.data.get("next_stage")
        configuration = cls(
            name=name,
            data_identifier=reader.text("data_identifier"),
            preprocessor_name=reader.text("preprocessor_name"),
            batch_size=reader.integer("batch_size", minimum=1),
            patch_size=reader.integers("patch_size", minimum=1),
            median_image_size_in_voxels=reader.numbers("median_image_size_in_voxels"),
            spacing=reader.optional_numbers("spacing"),
            normalization_schemes=reader.texts("normalization_schemes"),
            use_mask_for_norm=reader.flags("use_mask_for_norm"),
            resampling_data=_resampling(reader, "data"),
            resampling_seg=_resampling(reader, "seg"),
            resampling_probabilities=_resampling(reader, "probabilities"),
            architecture=_architecture(reader),
            batch_dice=reader.flag("batch_dice"),
            previous_stage=reader.optional_text("previous_stage"),
            next_stage=_one_or_more(reader, "next_stage") if following is not None else (),
            extra=reader.rest(drop=("inherits_from", "next_stage")),
        )
        if not findings.items:
            configuration._check(findings, place)
        return configuration

    def spacing_for(self, original: Sequence[float]) -> tuple[float, ...]:
        """Target spacing of one case, mm along all three axes of the plans.

        Args:
            original: The case's own spacing; kept between the slices of 2d configurations and where the plans say so.
        """
        target = (*([None] * (len(original) - len(self.spacing))), *self.spacing)
        return tuple(float(own if wanted is None else wanted) for own, wanted in zip(original, target, strict=True))

    def _check(self, findings: Findings, place: str) -> None:
        for key, value in (("patch_size", self.patch_size), ("spacing", self.spacing)):
            if len(value) not in (2, 3):
                findings.add(f"{place}.{key}", f"has {len(value)} numbers, expected 2 or 3")
        channels, masks = len(self.normalization_schemes), len(self.use_mask_for_norm)
        if channels != masks:
            findings.add(f"{place}.use_mask_for_norm", f"has {masks} entries, but normalization_schemes has {channels}")


def _resampling(reader: ObjectReader, what: str) -> ResamplingSpec:
    return ResamplingSpec(
        name=reader.text(f"resampling_fn_{what}"), kwargs=reader.mapping(f"resampling_fn_{what}_kwargs")
    )


def _architecture(reader: ObjectReader) -> Architecture:
    inner = ObjectReader(reader.mapping("architecture"), reader.findings, f"{reader.place}.architecture")
    if not inner.data:
        return Architecture(network_class_name="", arch_kwargs={}, requires_import=())
    null = {key for key, value in inner.data.items() if value is None}  # in plans for pre-trained networks: none
    return Architecture(
        network_class_name=inner.text("network_class_name"),
        arch_kwargs={} if "arch_kwargs" in null else inner.mapping("arch_kwargs"),
        requires_import=() if "_kw_requires_import" in null else inner.texts("_kw_requires_import", default=()),
    )


def _one_or_more(reader: ObjectReader, key: str) -> tuple[str, ...]:
    return (reader.text(key),) if isinstance(reader.data[key], str) else reader.texts(key)
