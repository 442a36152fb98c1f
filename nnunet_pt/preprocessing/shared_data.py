"""Data folders that several plans use: which plans those are, and whether they mean the same data.

The name of a data folder does not say all that its content depends on. Plans whose data differ only in how they are cut
into chunks share a folder; others must not, since each would delete the other's cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.plans.plans import NOT_PLANS, Plans
from nnunet_pt.preprocessing.case import CaseSettings

_WITH_STATISTICS = ("CTNormalization",)


def plans_sharing(
    identifier: str, folder: Path, labels: Labels, channel_names: tuple[str, ...]
) -> Iterator[tuple[str, CaseSettings]]:
    """Plans with a configuration that uses a data folder, and what they ask for; unusable plans are left out.

    Args:
        identifier: Name of the data folder.
        folder: The dataset's folder in nnUNet_preprocessed.
        labels: The labels of the dataset.
        channel_names: Its channels.
    """
    for path in sorted(folder.glob("*.json")):
        if path.stem in NOT_PLANS:
            continue
        try:
            plans = Plans.load(path)
            for name in plans.configuration_names:
                if plans.configuration(name).data_identifier == identifier:
                    yield path.stem, CaseSettings.of(plans, name, labels, channel_names)
        except NnunetError:
            continue


def differences(one: CaseSettings, other: CaseSettings) -> tuple[str, ...]:
    """What makes preprocessed cases different, as a person names it; empty if they are the same data."""
    ours, theirs = _content(one), _content(other)
    return tuple(key for key in ours if ours[key] != theirs[key])


def _content(settings: CaseSettings) -> dict[str, Any]:
    c = settings.configuration
    with_statistics = any(scheme in _WITH_STATISTICS for scheme in c.normalization_schemes)
    return {
        "image reader": settings.reader_name,
        "order of the axes": settings.transpose_forward,
        "preprocessor": c.preprocessor_name,
        "spacing": c.spacing,
        "normalisation": c.normalization_schemes,
        "masks of the normalisation": c.use_mask_for_norm,
        "resampling": [(r.name, dict(r.kwargs)) for r in (c.resampling_data, c.resampling_seg)],
        "intensity statistics": dict(settings.intensities) if with_statistics else {},
        "labels": [str(key) for key in settings.labels.class_location_keys],
    }
