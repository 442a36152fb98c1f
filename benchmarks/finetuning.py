"""Does pre-training help? Hippocampus with 8 labelled cases, from scratch and from pre-trained weights.

    python benchmarks/finetuning.py RAW/Dataset004_Hippocampus --work /tmp/finetuning
    python benchmarks/finetuning.py RAW/Dataset004_Hippocampus --work /tmp/finetuning --device cuda --features 1 \
        --pretraining 5000 --iterations 2500 --labelled 8 --seeds 5

Fold 0 as nnU-Net splits it. Some of its training cases keep their labels and are what all arms train on; a network is
pre-trained on the other training cases, with anterior and posterior part merged into one label, so that the
segmentation layers differ and are not transferred. All arms have the same number of iterations, and are validated on
all validation cases of the fold. So that little time is enough, a network with a quarter of the features is trained
by AdamW (SGD with nnU-Net's momentum finds no foreground from scratch in the 250 iterations), and without mirroring,
which would make it hard to tell the two parts apart. The segmentation layers learn ten times as fast as the others:
they begin with large random weights in all arms, and AdamW moves no weight further than its learning rate in an
iteration, so that otherwise they, and not what is below them, decide what is reached (``--head_factor 1`` shows it).

Everything is done by the commands a user would type, which are printed. The same call again keeps the trainings that
are finished; other lengths are other trainings. Prints a Markdown table, and draws the learning curves.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk
from matplotlib.figure import Figure

from nnunet_pt.core.files import read_json, write_json
from nnunet_pt.preprocessing.splits import Split, make_splits
from nnunet_pt.training.recipe import DEFAULT
from nnunet_pt.transfer.checkpoint import read_checkpoint

SHORT = replace(
    DEFAULT,
    name="SHORT",
    optimizer="adamw",
    initial_lr=1e-3,
    mirroring="none",
    validation_iterations_per_epoch=8,
    save_every=10**6,
)
RECIPE = f"{Path(__file__).resolve()}:SHORT"
FEW, OTHERS = "Dataset104_HippocampusFew", "Dataset105_HippocampusMerged"
PLANS, MOVED, CONFIGURATION = "nnUNetPlans", "pretrainPlans", "3d_fullres_small"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A way to train: what is added to the command, after the weights if it starts from any."""

    title: str
    pretrained: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A finished training of an arm."""

    dice: float
    by_label: Mapping[str, float]
    curve: Sequence[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder of the raw Dataset004_Hippocampus; it is only read")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--labelled", type=int, default=8, help="training cases with labels (default: %(default)s)")
    parser.add_argument("--pretraining", type=int, default=1200, help="iterations (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=250, help="of each arm (default: %(default)s)")
    parser.add_argument("--epoch", type=int, default=25, help="iterations between validations (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm (default: %(default)s)")
    parser.add_argument("--features", type=int, default=4, help="divides the features (default: %(default)s)")
    parser.add_argument("--head_factor", type=float, default=10, help="of the learning rate (default: %(default)g)")
    parser.add_argument("--small_rate", type=float, help="an arm more, fine-tuned with this learning rate")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--picture", type=Path, help="file for the learning curves (default: in the work folder)")
    args = parser.parse_args()
    work = args.work / f"{args.labelled}cases_features{args.features}"
    make_datasets(args.raw, work, args.labelled)
    make_data(work, args.features)
    weights = train(work, args, OTHERS, MOVED, "pretraining", args.pretraining, seed=0)
    results: dict[str, list[Training]] = {}
    for seed in range(1, args.seeds + 1):  # seed by seed, so that a stopped benchmark has figures for all arms
        for arm in arms(args):
            options = (*(("-pretrained_weights", str(weights)) if arm.pretrained else ()), *arm.options)
            start = f"_of{args.pretraining}" if arm.pretrained else ""
            name = f"{arm.title.replace(' ', '_').replace(',', '')}{start}"
            checkpoint = train(work, args, FEW, PLANS, name, args.iterations, seed, options)
            results.setdefault(arm.title, []).append(result_of(checkpoint.parent))
    print(table(results))
    picture = args.picture or work / "finetuning.svg"
    draw(results, args.epoch, picture)
    print(f"\nLearning curves: {picture}")


def arms(args: argparse.Namespace) -> list[Arm]:
    """What is compared."""
    third = str(max(args.iterations // args.epoch // 3, 1))
    found = [
        Arm(title="from scratch"),
        Arm(title="fine-tuned", pretrained=True),
        Arm(
            title="fine-tuned, encoder frozen for a third",
            pretrained=True,
            options=("-freeze", "encoder", "-freeze_epochs", third),
        ),
    ]
    if args.small_rate:
        rate = str(args.small_rate)
        found.append(Arm(title=f"fine-tuned, rate {rate}", pretrained=True, options=("-lr", rate)))
    return found


def make_datasets(raw: Path, work: Path, labelled: int) -> None:
    """The dataset with few labels, and that of the other training cases with one label for both parts."""
    description = read_json(raw / "dataset.json")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").glob("*.nii.gz"))
    fold = make_splits(cases)[0]
    few = fold.train[:: len(fold.train) // labelled][:labelled]
    others = [case for case in fold.train if case not in few]
    merged = {"background": 0, "hippocampus": 1}
    # something must be validated: the last cases, which are not trained on
    splits = {
        FEW: Split(train=tuple(few), val=fold.val),
        OTHERS: Split(train=tuple(others[:-4]), val=tuple(others[-4:])),
    }
    for name, split in splits.items():
        target, used = work / "raw" / name, (*split.train, *split.val)
        changes = {"numTraining": len(used)} | ({"labels": merged} if name == OTHERS else {})
        for folder in ("imagesTr", "labelsTr"):
            (target / folder).mkdir(parents=True, exist_ok=True)
        for case in used:
            shutil.copyfile(raw / "imagesTr" / f"{case}_0000.nii.gz", target / "imagesTr" / f"{case}_0000.nii.gz")
            copy_label(raw / "labelsTr" / f"{case}.nii.gz", target / "labelsTr", merge=name == OTHERS)
        write_json(target / "dataset.json", {**description, **changes})
        (work / "preprocessed" / name).mkdir(parents=True, exist_ok=True)
        write_json(work / "preprocessed" / name / "splits_final.json", [split.to_json()])


def copy_label(source: Path, folder: Path, *, merge: bool) -> None:
    """Copy a label file; ``merge`` makes one label of all."""
    if not merge:
        shutil.copyfile(source, folder / source.name)
        return
    image = sitk.ReadImage(str(source))
    sitk.WriteImage(sitk.Cast(image > 0, sitk.sitkUInt8), str(folder / source.name))


def make_data(work: Path, features: int) -> None:
    """Plans of the dataset with few labels, a configuration with a small network, and both preprocessed."""
    if (work / "data_done").exists():
        return
    few, others = (str(int(name[7:10])) for name in (FEW, OTHERS))
    command(work, "plan_and_preprocess", "-d", few, "-c", "3d_fullres", "--no_pbar")
    add_small_configuration(work / "preprocessed" / FEW / f"{PLANS}.json", features)
    command(work, "extract_fingerprint", "-d", others, "--no_pbar")
    command(work, "move_plans_between_datasets", "-s", few, "-t", others, "-sp", PLANS, "-tp", MOVED)
    command(work, "preprocess", "-d", others, "-plans_name", MOVED, "-c", CONFIGURATION, "--no_pbar")
    (work / "data_done").touch()


def add_small_configuration(file: Path, features: int) -> None:
    """Add ``CONFIGURATION``, which has a part of the features."""
    plans = read_json(file)
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    kwargs = architecture["arch_kwargs"]
    small = [number // features for number in kwargs["features_per_stage"]]
    changed = {**architecture, "arch_kwargs": {**kwargs, "features_per_stage": small}}
    plans["configurations"][CONFIGURATION] = {"inherits_from": "3d_fullres", "architecture": changed}
    write_json(file, plans)


def train(
    work: Path,
    args: argparse.Namespace,
    dataset: str,
    plans: str,
    name: str,
    iterations: int,
    seed: int,
    options: Sequence[str] = (),
) -> Path:
    """Train and validate, unless that is done already; the last checkpoint.

    The name of the results folder begins with ``name`` and says everything that may differ.
    """
    lengths = f"{iterations}_by{args.epoch}_heads{args.head_factor:g}_{args.device}"
    results = work / "results" / f"{name}_{lengths}_seed{seed}"
    fold = results / dataset / f"{SHORT.name}__{plans}__{CONFIGURATION}" / "fold_0"
    if not (fold / "validation" / "summary.json").exists():
        shutil.rmtree(results, ignore_errors=True)
        length = ("-epochs", str(iterations // args.epoch), "-iterations", str(args.epoch), "-seed", str(seed))
        which = (str(int(dataset[7:10])), CONFIGURATION, "0", "-p", plans, "-tr", RECIPE)
        heads = ("-lr_factor", f"decoder.seg_layers={args.head_factor:g}")
        command(work, "train", *which, *length, *heads, "-device", args.device, "--no_pbar", *options, results=results)
    return fold / "checkpoint_final.pth"


def command(work: Path, program: str, *arguments: str, results: Path | None = None) -> None:
    """Run a command of ours in the work folder; its output goes to a file there."""
    print(f"nnUNetv2_{program} {shlex.join(arguments)}", file=sys.stderr, flush=True)
    folders = {"nnUNet_raw": work / "raw", "nnUNet_preprocessed": work / "preprocessed"}
    folders["nnUNet_results"] = results or work / "results"
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    log = work / "output.txt"
    with log.open("w") as file:
        start = f"from nnunet_pt.cli.{program} import main; raise SystemExit(main())"
        line = [sys.executable, "-c", start, *arguments]
        status = subprocess.run(line, env=environment, stdout=file, stderr=file, check=False).returncode
    if status:
        raise SystemExit(f"This command failed with status {status}:\n{log.read_text()[-4000:]}")


def result_of(fold: Path) -> Training:
    """What a training has achieved: Dice of the final validation, and the curve of the running one."""
    summary = read_json(fold / "validation" / "summary.json")
    by_label = {name: values["Dice"] for name, values in summary["mean"].items()}
    logging = read_checkpoint(fold / "checkpoint_final.pth", lazy=True).logging
    curve = [float(value) for value in logging["mean_fg_dice"]]
    return Training(dice=summary["foreground_mean"]["Dice"], by_label=by_label, curve=curve)


def table(results: Mapping[str, Sequence[Training]]) -> str:
    """Mean and standard deviation over seeds, as Markdown."""
    count = max(len(trainings) for trainings in results.values())
    seeds = " | ".join(f"seed {number}" for number in range(1, count + 1))
    lines = [f"| | Dice, mean ± SD | anterior | posterior | {seeds} |", "|---" * (4 + count) + "|"]
    for title, trainings in results.items():
        dice = [training.dice for training in trainings]
        spread = f" ± {statistics.stdev(dice):.3f}" if len(dice) > 1 else ""
        parts = [f"{statistics.mean(t.by_label[label] for t in trainings):.3f}" for label in ("1", "2")]
        lines.append(
            f"| {title} | {statistics.mean(dice):.3f}{spread} | "
            + " | ".join([*parts, *(f"{d:.3f}" for d in dice)])
            + " |"
        )
    return "\n".join(lines)


def draw(results: Mapping[str, Sequence[Training]], epoch: int, file: Path) -> None:
    """Dice during training: the median over seeds, and every seed as a thin line."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    for title, trainings in results.items():
        curves = list(zip(*(training.curve for training in trainings), strict=True))
        iterations = [epoch * (number + 1) for number in range(len(curves))]
        (line,) = axes.plot(iterations, [statistics.median(dice) for dice in curves], label=title, linewidth=2.4)
        axes.plot(iterations, curves, color=line.get_color(), alpha=0.35, linewidth=0.8)
    axes.set_xlabel("iterations")
    axes.set_ylabel("Dice of validation patches")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.patch.set_facecolor("white")  # readable on dark pages, too
    figure.savefig(file)


if __name__ == "__main__":
    main()
