"""Labels, regions and the ignore label: what the network predicts and how that becomes a segmentation.

Functions that take arrays accept numpy arrays and torch tensors; they give back the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnunet_pt.core.errors import DatasetError

if TYPE_CHECKING:
    from nnunet_pt.dataset.description import DatasetDescription

BACKGROUND = "background"
IGNORE = "ignore"

LabelValue = int | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The meaning of the numbers in a segmentation, derived from ``labels`` in dataset.json.

    Attributes:
        labels: Name to value, in the file's order; a region is a tuple of the values it unites.
        regions_class_order: With regions: the value that each of them, in order, writes into a segmentation.

    Raises:
        DatasetError: With every contradiction, see :func:`label_findings`.
    """

    labels: Mapping[str, LabelValue]
    regions_class_order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        findings = label_findings(self.labels, self.regions_class_order)
        if findings:
            raise DatasetError("The labels of the dataset contradict themselves.", found="; ".join(findings))

    @classmethod
    def from_description(cls, description: DatasetDescription) -> Labels:
        """The labels of a dataset."""
        return cls(labels=description.labels, regions_class_order=description.regions_class_order)

    @property
    def num_label_entries(self) -> int:
        """Number of entries under ``labels``, background and ignore label included."""
        return len(self.labels)

    @property
    def all_labels(self) -> tuple[int, ...]:
        """Every label value in ascending order, without the ignore label."""
        values = {v for name, value in self.labels.items() if name != IGNORE for v in _members(value)}
        return tuple(sorted(values))

    @property
    def foreground_labels(self) -> tuple[int, ...]:
        """All labels except 0 and the ignore label."""
        return tuple(v for v in self.all_labels if v != 0)

    @property
    def has_regions(self) -> bool:
        """Whether any entry unites several values."""
        return _has_regions(self.labels)

    @property
    def regions(self) -> tuple[LabelValue, ...]:
        """Regions in the file's order, without background and ignore label; empty without regions."""
        return _regions(self.labels) if self.has_regions else ()

    @property
    def foreground_regions(self) -> tuple[LabelValue, ...]:
        """Regions that hold more than background; the same as :attr:`regions`."""
        return self.regions

    @property
    def ignore_label(self) -> int | None:
        """The value of voxels without annotation, if there is one."""
        value = self.labels.get(IGNORE)
        return value if isinstance(value, int) else None

    @property
    def has_ignore_label(self) -> bool:
        """Whether there is an ignore label."""
        return self.ignore_label is not None

    @property
    def file_values(self) -> tuple[int, ...]:
        """Every value a segmentation file may hold: all labels, and the ignore label if there is one."""
        return self.all_labels if self.ignore_label is None else (*self.all_labels, self.ignore_label)

    @property
    def num_segmentation_heads(self) -> int:
        """Output channels of the network: regions, or labels with background."""
        return len(self.foreground_regions) if self.has_regions else len(self.all_labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes in the order of the network's outputs; several names of one value joined."""
        if self.has_regions:
            return tuple(n for n, value in self.labels.items() if n != IGNORE and any(_members(value)))
        names = {v: [n for n, value in self.labels.items() if _members(value) == (v,)] for v in self.foreground_labels}
        return tuple("/".join(names[v]) or str(v) for v in self.foreground_labels)

    @property
    def class_location_keys(self) -> tuple[LabelValue, ...]:
        """Keys of ``class_locations`` in the preprocessed properties, in nnU-Net's order.

        With an ignore label there is a last key ``(-1, *all_labels)`` for every annotated voxel.
        """
        keys: tuple[LabelValue, ...] = self.foreground_regions if self.has_regions else self.foreground_labels
        return (*keys, (-1, *self.all_labels)) if self.has_ignore_label else keys

    def probabilities_to_segmentation(self, probabilities_cxyz: Any) -> Any:
        """Turn probabilities into labels.

        Args:
            probabilities_cxyz: Array or tensor (heads, x, y, z); any number of spatial axes will do.

        Returns:
            (x, y, z). Labels: the index of the largest channel, int64. Regions: region by region the value of
            ``regions_class_order`` where the probability exceeds 0.5, later ones on top; uint16 (int16 for tensors).
        """
        return self._segmentation(probabilities_cxyz, from_logits=False)

    def logits_to_segmentation(self, logits_cxyz: Any) -> Any:
        """Like :meth:`probabilities_to_segmentation`, from the network's output before softmax or sigmoid."""
        return self._segmentation(logits_cxyz, from_logits=True)

    def _segmentation(self, scores_cxyz: Any, *, from_logits: bool) -> Any:
        if scores_cxyz.shape[0] != self.num_segmentation_heads:
            raise ValueError(f"{scores_cxyz.shape[0]} channels for {self.num_segmentation_heads} labels or regions")
        if not self.has_regions:
            return _argmax(scores_cxyz)
        segmentation = _zeros_for_regions(scores_cxyz)
        for scores, value in zip(scores_cxyz, self.regions_class_order or (), strict=True):
            segmentation[(_sigmoid(scores) if from_logits else scores) > 0.5] = value
        return segmentation

    def one_hot(self, segmentation_xyz: Any) -> Any:
        """One channel for each foreground label (labels, also where the network predicts regions).

        Args:
            segmentation_xyz: Array or tensor of labels.

        Returns:
            (foreground labels, x, y, z) with zeros and ones in the data type of the input.
        """
        shape = (len(self.foreground_labels), *segmentation_xyz.shape)
        if _is_tensor(segmentation_xyz):
            result = segmentation_xyz.new_zeros(shape)
        else:
            import numpy as np

            result = np.zeros(shape, segmentation_xyz.dtype)
        for channel, label in enumerate(self.foreground_labels):
            result[channel] = segmentation_xyz == label
        return result


def label_findings(labels: Mapping[str, LabelValue], regions_class_order: Sequence[int] | None) -> list[str]:
    """Everything that keeps labels from being used; empty if they are fine.

    ``background`` must be 0, the ignore label must be the largest label plus one, and with regions there must be one
    entry of ``regions_class_order`` for each of them.
    """
    findings: list[str] = []
    if labels.get(BACKGROUND) != 0:
        has = f"is {labels[BACKGROUND]!r}" if BACKGROUND in labels else "is missing"
        findings.append(f'label "{BACKGROUND}" {has}, it must be there with the value 0')
    if IGNORE in labels:
        others = [v for name, value in labels.items() if name != IGNORE for v in _members(value)]
        expected = max(others, default=0) + 1
        if labels[IGNORE] != expected:
            findings.append(
                f'label "{IGNORE}" is {labels[IGNORE]!r}, it must be the largest other label plus one, {expected}'
            )
    if _has_regions(labels):
        num_regions = len(_regions(labels))
        if regions_class_order is None:
            findings.append(f"labels has regions, so regions_class_order with {num_regions} values is needed")
        elif len(regions_class_order) != num_regions:
            findings.append(
                f"regions_class_order has {len(regions_class_order)} values for {num_regions} regions"
                " (one for each label that is neither background nor ignore)"
            )
    return findings


def _members(value: LabelValue) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value


def _has_regions(labels: Mapping[str, LabelValue]) -> bool:
    return any(isinstance(value, tuple) and len(value) > 1 for value in labels.values())


def _regions(labels: Mapping[str, LabelValue]) -> tuple[LabelValue, ...]:
    return tuple(value for name, value in labels.items() if name != IGNORE and any(_members(value)))


def _is_tensor(array: Any) -> bool:
    return hasattr(array, "new_zeros")


def _argmax(scores_cxyz: Any) -> Any:
    if _is_tensor(scores_cxyz):
        return scores_cxyz.argmax(0)
    import numpy as np

    # A running maximum: numpy's argmax over the first axis would first copy everything in another order.
    best = scores_cxyz[0].copy()
    result = np.zeros(best.shape, np.int64)
    for channel in range(1, scores_cxyz.shape[0]):
        larger = scores_cxyz[channel] > best
        result[larger] = channel
        np.copyto(best, scores_cxyz[channel], where=larger)
    return result


def _zeros_for_regions(scores_cxyz: Any) -> Any:
    if _is_tensor(scores_cxyz):
        import torch

        return scores_cxyz.new_zeros(scores_cxyz.shape[1:], dtype=torch.int16)
    import numpy as np

    return np.zeros(scores_cxyz.shape[1:], np.uint16)


def _sigmoid(logits: Any) -> Any:
    if _is_tensor(logits):
        return logits.float().sigmoid()
    import numpy as np

    # Written with tanh so that large negative logits do not overflow.
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float32)))
