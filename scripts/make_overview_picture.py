"""Draw the picture of the README from the results of the demo: annotated images, predictions, and what leads to what.

    bash scripts/demo.sh && python scripts/make_overview_picture.py demo --case phantomts_006

Shown is the first test case, unless another one is named; the Dice in the picture is the mean over all test cases.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_pt.core.files import read_json

PRETRAINING, FINETUNING = "Dataset901_PhantomPretrain", "Dataset902_PhantomFinetune"
COLOURS = {"liver": "#e4572e", "spleen": "#f2b705", "kidney": "#2e86ab", "spine": "#8e6bbf", "lesion": "#35d07f"}
TEXT, QUIET = "#1f2933", "#5f6c7b"
WIDTH, HEIGHT = 12.8, 4.0  # inches, at 100 dots each


class Case:
    """A slice of an image, and where which label is in it."""

    def __init__(self, image: Path, annotation: Path, labels: dict[str, int], index: int | None = None) -> None:
        picture, marked = sitk.ReadImage(str(image)), sitk.GetArrayFromImage(sitk.ReadImage(str(annotation)))
        self.index = most_telling(marked) if index is None else index
        volume = sitk.GetArrayFromImage(picture).astype(np.float32)
        self.pixels = volume[self.index] / np.percentile(volume, 99.8)
        self.masks = {name: marked[self.index] == value for name, value in labels.items() if value}
        self.aspect = picture.GetSpacing()[1] / picture.GetSpacing()[0]

    def draw(self, axes: Any, *, overlay: bool = True) -> None:
        axes.imshow(self.pixels, cmap="gray", vmin=0, vmax=1, aspect=self.aspect, interpolation="lanczos")
        for name, mask in self.masks.items():
            if overlay and mask.any():
                soft = np.pad(mask.astype(np.float32), 1)[1:-1, 1:-1]
                axes.contourf(soft, levels=[0.5, 2], colors=[COLOURS[name]], alpha=0.35)
                axes.contour(soft, levels=[0.5], colors=[COLOURS[name]], linewidths=1.6)
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(color="white", linewidth=2)


def most_telling(marked: NDArray[Any]) -> int:
    """The slice with most labels; among these the one with most voxels of the rarest label of the volume."""
    labels, counts = np.unique(marked[marked > 0], return_counts=True)
    rarest = labels[np.argmin(counts)]
    score = [(len(np.unique(slice_)), int((slice_ == rarest).sum())) for slice_ in marked]
    return max(range(len(score)), key=score.__getitem__)


def training_cases(dataset: Path, count: int) -> list[Case]:
    labels = read_json(dataset / "dataset.json")["labels"]
    names = sorted(path.name[: -len(".nii.gz")] for path in (dataset / "labelsTr").glob("*.nii.gz"))[:count]
    return [
        Case(dataset / "imagesTr" / f"{n}_0000.nii.gz", dataset / "labelsTr" / f"{n}.nii.gz", labels) for n in names
    ]


def draw(raw: Path, fine_tuned: Path, from_scratch: Path, case: str, output: Path) -> None:
    """Draw the picture and write it as PNG."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=100, facecolor="white")

    def place(x: float, y: float, width: float, height: float) -> Any:
        return figure.add_axes((x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT))

    def say(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / WIDTH, y / HEIGHT, words, **{"ha": "center", "va": "center", "color": TEXT, **style})

    def heading(x: float, number: int, words: str, command: str) -> None:
        say(x, 3.72, f"{number}  {words}", fontsize=13, fontweight="bold")
        say(x, 0.36, command, fontsize=9, family="monospace", color=QUIET)

    def arrow(x: float, words: str) -> None:
        axes = place(x, 1.75, 0.62, 0.6)
        axes.set_axis_off()
        axes.annotate(
            "",
            (1, 0.5),
            (0, 0.5),
            arrowprops={"arrowstyle": "-|>,head_width=0.45,head_length=0.7", "lw": 3, "color": QUIET},
        )
        say(x + 0.31, 2.42, words, fontsize=9.5, color=QUIET)

    for number, shown in enumerate(training_cases(raw / PRETRAINING, 4)[::-1]):
        shown.draw(place(0.25 + 0.28 * number, 1.75 - 0.36 * number, 1.95, 1.7))
    heading(1.65, 1, "Many annotated cases", "nnUNetv2_train 901 3d_fullres all")
    arrow(3.2, "weights")
    for number, shown in enumerate(training_cases(raw / FINETUNING, 2)[::-1]):
        shown.draw(place(3.95 + 0.28 * number, 1.4 - 0.36 * number, 1.95, 1.7))
    heading(5.05, 2, "Few of your own", "nnUNetv2_finetune -d 902 -from MODEL")
    arrow(6.3, "model")

    test = raw / FINETUNING
    labels = read_json(test / "dataset.json")["labels"]
    image = test / "imagesTs" / f"{case}_0000.nii.gz"
    expert = Case(image, test / "labelsTs" / f"{case}.nii.gz", labels)
    columns = [
        ("annotation", expert, ""),
        ("fine-tuned", Case(image, fine_tuned / f"{case}.nii.gz", labels, expert.index), dice_of(fine_tuned)),
        ("from scratch", Case(image, from_scratch / f"{case}.nii.gz", labels, expert.index), dice_of(from_scratch)),
    ]
    heading(9.85, 3, "New images", "nnUNetv2_predict -d 902 -i IMAGES -o PREDICTIONS")
    for number, (words, shown, dice) in enumerate(columns):
        x = 7.1 + 1.88 * number
        shown.draw(place(x, 1.28, 1.8, 2.2))
        say(x + 0.9, 3.2, words, fontsize=11)
        say(x + 0.9, 1.52, dice, fontsize=11, fontweight="bold", color=TEXT)
    for number, name in enumerate(COLOURS):
        say(7.6 + 1.05 * number, 1.05, f"■ {name}", fontsize=10, color=COLOURS[name])
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE).save(output, optimize=True)


def dice_of(predictions: Path) -> str:
    return f"Dice {read_json(predictions / 'summary.json')['foreground_mean']['Dice']:.2f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder of the demo, after its end")
    parser.add_argument("--case", default="phantomts_000", help="test case to show (default: %(default)s)")
    parser.add_argument("-o", type=Path, default=Path("documentation/overview.png"), help="default: %(default)s")
    args = parser.parse_args()
    predictions = args.demo / "predictions"
    draw(args.demo / "nnUNet_raw", predictions / "FineTuned", predictions / "FromScratch", args.case, args.o)
    print(args.o)


if __name__ == "__main__":
    main()
