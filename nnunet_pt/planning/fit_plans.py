"""Make plans that come from another dataset fit the one that receives them, without touching the network in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.planning.experiment import MASK_IF_CROPPED_TO_LESS
from nnunet_pt.plans.fingerprint import Fingerprint
from nnunet_pt.plans.plans import NOT_PLANS, Plans
from nnunet_pt.preprocessing.case import CaseSettings
from nnunet_pt.preprocessing.normalize import scheme_for_channel, uses_mask

Origins = tuple[int | None, ...]


def channel_origins(source: Sequence[str] | None, count: int, target: Sequence[str]) -> Origins:
    """For each channel of the receiving dataset, the source's channel that it corresponds to.

    The same number of channels corresponds in its order, unless the names say that the order is another one. Otherwise
    names decide, whatever their case and whatever separates their words.

    Args:
        source: Names of the source's channels, if they are known.
        count: Number of the source's channels.
        target: Names of the receiving dataset's channels.
    """
    left = {number: _folded(name) for number, name in enumerate(source or ())}
    by_name: list[int | None] = []
    for name in target:
        origin = next((number for number, other in left.items() if other == _folded(name)), None)
        by_name.append(origin)
        if origin is not None:
            del left[origin]
    in_order = all(origin in (None, channel) for channel, origin in enumerate(by_name))
    return tuple(range(count)) if len(target) == count and in_order else tuple(by_name)


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def fit_channels(plans: Plans, origins: Origins, description: DatasetDescription, fingerprint: Fingerprint) -> Plans:
    """Plans with a normalisation for each channel of the receiving dataset.

    A channel that the source has, too, is normalised as there; any other one as planning would do it.

    Args:
        plans: The source's plans.
        origins: See :func:`channel_origins`.
        description: The receiving dataset.
        fingerprint: Its fingerprint.
    """
    mostly_empty = fingerprint.median_relative_size_after_cropping < MASK_IF_CROPPED_TO_LESS
    schemes = [scheme_for_channel(name) for name in description.channel_names]
    own: dict[str, list[Any]] = {
        "normalization_schemes": schemes,
        "use_mask_for_norm": [mostly_empty and uses_mask(scheme) for scheme in schemes],
    }
    statistics = plans.foreground_intensity_properties_per_channel
    return replace(
        plans,
        configurations={name: _for_channels(e, origins, own) for name, e in plans.configurations.items()},
        foreground_intensity_properties_per_channel={
            str(channel): statistics[str(origin)]
            if str(origin) in statistics
            else fingerprint.foreground_intensity_properties_per_channel[str(channel)]
            for channel, origin in enumerate(origins)
        },
    )


def _for_channels(entries: Mapping[str, Any], origins: Origins, own: Mapping[str, list[Any]]) -> dict[str, Any]:
    changed = dict(entries)
    for key, standard in own.items():
        if key in entries:
            theirs = list(entries[key])
            changed[key] = [
                theirs[origin] if origin is not None and origin < len(theirs) else standard[channel]
                for channel, origin in enumerate(origins)
            ]
    return changed


def share_data(plans: Plans, folder: Path, description: DatasetDescription) -> Plans:
    """Plans that use the data folders of the dataset's other plans wherever these hold exactly the same data.

    Args:
        plans: The plans.
        folder: The dataset's folder in nnUNet_preprocessed.
        description: The dataset.
    """
    labels, channels = Labels.from_description(description), description.channel_names
    known = {
        settings.digest(): settings.configuration.data_identifier
        for path in sorted(folder.glob("*.json"))
        if path.stem not in {*NOT_PLANS, plans.plans_name}
        for settings in _settings(path, labels, channels)
    }
    changed = dict(plans.configurations)
    for name, entries in plans.configurations.items():
        if "data_identifier" in entries:
            settings = CaseSettings.of(plans, name, labels, channels)
            changed[name] = {**entries, "data_identifier": known.get(settings.digest(), entries["data_identifier"])}
    return replace(plans, configurations=changed)


def _settings(path: Path, labels: Labels, channels: tuple[str, ...]) -> list[CaseSettings]:
    """What each configuration of a plans file asks for; nothing if it is damaged."""
    try:
        plans = Plans.load(path)
        return [CaseSettings.of(plans, name, labels, channels) for name in plans.configuration_names]
    except NnunetError:
        return []
