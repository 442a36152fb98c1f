"""Cross-validation splits, the same as nnU-Net makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import DatasetError, StorageError
from nnunet_pt.core.files import read_json, write_json
from nnunet_pt.core.wording import counted

SPLITS_FILE = "splits_final.json"
NUM_FOLDS = 5
SEED = 12345


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Case identifiers for training and for validation."""

    train: tuple[str, ...]
    val: tuple[str, ...]

    def to_json(self) -> dict[str, list[str]]:
        """As in ``splits_final.json``."""
        return {"train": list(self.train), "val": list(self.val)}


def make_splits(cases: Sequence[str], num_folds: int = NUM_FOLDS) -> tuple[Split, ...]:
    """Shuffle the sorted cases with a fixed seed and cut them into folds.

    Raises:
        DatasetError: If there are fewer cases than folds.
    """
    import numpy as np

    names = sorted(cases)
    if len(names) < num_folds:
        raise DatasetError(
            f"{counted(len(names), 'case')} cannot be split into {num_folds} folds.",
            remedy="train on all cases (fold all), or write your own splits_final.json",
        )
    order = np.arange(len(names))
    np.random.RandomState(SEED).shuffle(order)
    splits = []
    for part in np.array_split(order, num_folds):
        validation = set(part.tolist())
        splits.append(
            Split(
                train=tuple(n for i, n in enumerate(names) if i not in validation),
                val=tuple(n for i, n in enumerate(names) if i in validation),
            )
        )
    return tuple(splits)


def random_split(cases: Sequence[str], fold: int, train_share: float = 0.8) -> Split:
    """The 80:20 split nnU-Net makes for a fold number beyond those in ``splits_final.json``."""
    import numpy as np

    names = sorted(cases)
    random = np.random.RandomState(SEED + fold)
    chosen = random.choice(np.arange(len(names)), int(len(names) * train_share), replace=False)
    train = set(chosen.tolist())
    return Split(
        train=tuple(names[i] for i in chosen.tolist()), val=tuple(n for i, n in enumerate(names) if i not in train)
    )


def load_splits(path: Path) -> tuple[Split, ...]:
    """Read ``splits_final.json``.

    Raises:
        StorageError: If it is missing or is no list of train and val cases.
    """
    return parse_splits(read_json(path), path)


def parse_splits(data: Any, source: Path) -> tuple[Split, ...]:
    """Turn the content of a splits file into splits; ``source`` is named in errors."""
    wrong = StorageError(
        f"{source} does not hold splits.", expected='a list with entries like {"train": ["case_1"], "val": ["case_2"]}'
    )
    if not isinstance(data, list):
        raise wrong
    splits = []
    for entry in data:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), list) for k in ("train", "val")):
            raise wrong
        splits.append(Split(train=tuple(map(str, entry["train"])), val=tuple(map(str, entry["val"]))))
    return tuple(splits)


def load_or_make_splits(dataset_folder: Path, cases: Sequence[str]) -> tuple[Split, ...]:
    """The splits of a preprocessed dataset; made and written at first use.

    With fewer cases than the usual five folds each case is the validation case of a fold of its own.
    """
    path = dataset_folder / SPLITS_FILE
    if path.is_file():
        return load_splits(path)
    splits = make_splits(cases, max(2, min(NUM_FOLDS, len(cases))))
    write_json(path, [s.to_json() for s in splits])
    return splits
