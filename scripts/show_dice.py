"""Show the Dice of several trainings side by side.

python scripts/show_dice.py RESULTS/Dataset902_PhantomFinetune/*/fold_0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_pt.core.files import read_json


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", nargs="+", type=Path, help="folders of folds with a final validation")
    folds = parser.parse_args().folds
    names = {str(v): name for name, v in read_json(folds[0].parent / "dataset.json")["labels"].items()}
    rows: list[list[str]] = []
    for fold in folds:
        summary = read_json(fold / "validation" / "summary.json")
        dice = {names.get(label, label): values["Dice"] for label, values in summary["mean"].items()}
        dice["mean"] = summary["foreground_mean"]["Dice"]
        rows = rows or [["", *dice]]
        rows.append([fold.parent.name.partition("__")[0], *(f"{value:.3f}" for value in dice.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())


if __name__ == "__main__":
    main()
