"""Show the Dice of trainings or predictions side by side, label by label.

python scripts/show_dice.py RESULTS/Dataset902_PhantomFinetune/*/fold_0
python scripts/show_dice.py predictions/FromScratch predictions/FineTuned -names "from scratch" "fine-tuned"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.core.files import read_json


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        help="folders of folds, or of predictions with the summary.json of their evaluation",
    )
    parser.add_argument("-names", nargs="+", help="what to call them (default: trainers, or names of the folders)")
    args = parser.parse_args()
    names = args.names or [name_of(folder) for folder in args.folders]
    if len(names) != len(args.folders):
        parser.error(f"{len(args.folders)} folders, but {len(names)} names")
    print(text_table([("", *names), *rows([dice_of(folder) for folder in args.folders])]))


def is_fold(folder: Path) -> bool:
    """Whether a folder is one of a training."""
    return (folder / "validation" / "summary.json").is_file()


def name_of(folder: Path) -> str:
    """What to call a folder."""
    return folder.resolve().parent.name.partition("__")[0] if is_fold(folder) else folder.resolve().name


def dice_of(folder: Path) -> dict[str, float | None]:
    """Mean Dice of every label by its name, and the mean of all; None where no case has the label."""
    summary = read_json((folder / "validation" if is_fold(folder) else folder) / "summary.json")
    labels = read_json((folder.resolve().parent if is_fold(folder) else folder) / "dataset.json")["labels"]
    keys = {str(tuple(value) if isinstance(value, list) else value): name for name, value in labels.items()}
    dice = {keys.get(label, label): values["Dice"] for label, values in summary["mean"].items()}
    return {**dice, "mean": summary["foreground_mean"]["Dice"]}


def rows(columns: Sequence[dict[str, float | None]]) -> list[tuple[str, ...]]:
    """A row for each label; the last of several columns is compared with the first."""
    found = []
    for label in columns[0]:
        values = [column.get(label) for column in columns]
        found.append((label, *("-" if value is None else f"{value:.3f}" for value in values)))
    return found


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """Columns under each other, the first one aligned left, a rule below the head and above the mean."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    rule = "-" * len(text[0])
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


if __name__ == "__main__":
    main()
