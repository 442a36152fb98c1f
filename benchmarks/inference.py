"""How fast and how small prediction is, beside nnU-Net 2.8.1.

    python benchmarks/inference.py                                   # this project alone
    python benchmarks/inference.py --peer /path/to/env/bin/python    # side by side, alternating
    python benchmarks/inference.py --only predict --device cuda --precision fp16 bf16 --tiles 0 1 4

Every run is a process of its own; runs of all sides alternate, and medians are compared. Rows:

    predict   nnUNetv2_predict_from_modelfolder on imagesTs of Dataset004 with mirroring, the whole command
    start     the same for one image of one tile without mirroring: what passes before and after the network
    export    logits of 62 classes to a segmentation file of twice the size along each axis

Prints a Markdown table; --json writes all single runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from preprocessing import DEFAULT_DATA, HERE, Run, measure, organ_labels

DATASET = "Dataset004_Hippocampus"
DEFAULT_MODEL = HERE.parent.parent / "shared" / "golden" / "models" / "hippocampus_3d" / "model"
COMMAND = "nnUNetv2_predict_from_modelfolder"
TITLES = {
    "predict": "prediction of imagesTs of Dataset004, one fold, mirroring, whole command",
    "start": "the same, one image of one tile, no mirroring (start and end of the command)",
    "export": "export of 62 classes, 112x101x122 to 224x202x244",
}


@dataclass
class Side:
    """One way to do the work: its runs, and its last result."""

    name: str
    flags: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    result: Path | None = None

    @property
    def seconds(self) -> float:
        return statistics.median(r.seconds for r in self.runs)

    @property
    def peak_gb(self) -> float:
        return max(r.peak_gb for r in self.runs)


def sides_of(job: str, args: argparse.Namespace) -> list[Side]:
    """nnU-Net first, if it is there; then this project in each precision and batch size."""
    sides = [Side("nnU-Net 2.8.1")] if args.peer else []
    if job == "export":
        return [*sides, Side("nnunet_pt")]
    for precision in args.precision:
        for tiles in args.tiles:
            flags = ["-precision", precision, *(["-tiles_per_batch", str(tiles)] if tiles else [])]
            sides.append(Side(" ".join(["nnunet_pt", precision, *([f"{tiles} tiles"] if tiles else [])]), flags))
    return sides


def python_of(side: Side, args: argparse.Namespace) -> str:
    return str(args.peer) if side.name.startswith("nnU-Net") else sys.executable


def run_predict(side: Side, images: Path, extra: list[str], args: argparse.Namespace, folder: Path) -> None:
    # not resolve(): the link to the interpreter is what lies in the environment's bin
    command = Path(python_of(side, args)).absolute().parent / COMMAND
    side.result = folder / side.name.replace(" ", "_")
    shutil.rmtree(side.result, ignore_errors=True)
    arguments = ["-i", str(images), "-o", str(side.result), "-m", str(args.model), "-f", args.fold]
    arguments += ["-device", args.device, *extra, *side.flags]
    if side.name.startswith("nnU-Net"):
        arguments += ["-npp", "1", "-nps", "1"]  # more only makes it slower on two cores
    side.runs.append(measure([str(command), *arguments], dict(os.environ), wrapped=True))


def benchmark_predict(job: str, args: argparse.Namespace, folder: Path) -> list[Side]:
    images = args.images or args.data / DATASET / "imagesTs"
    extra: list[str] = []
    if job == "start":
        single = folder / "one"
        single.mkdir()
        first = min(images.glob("*_0000.*"))
        (single / first.name).symlink_to(first.resolve())
        images, extra = single, ["--disable_tta"]
    sides = sides_of(job, args)
    for _ in range(args.repeats):
        for side in sides:
            run_predict(side, images, extra, args, folder)
    return sides


def benchmark_export(args: argparse.Namespace, folder: Path) -> list[Side]:
    make_export_case(args.data, folder)
    sides = sides_of("export", args)
    for _ in range(args.repeats):
        for side in sides:
            side.result = folder / side.name.replace(" ", "_")
            command = [python_of(side, args), __file__, "--export_job", str(folder), str(side.result)]
            side.runs.append(measure(command, dict(os.environ), wrapped=False))
    return sides


def make_export_case(data: Path, folder: Path) -> None:
    """Logits, properties, plans and dataset description of an invented prediction."""
    from scipy.ndimage import gaussian_filter

    labels = organ_labels(data)
    logits = np.stack([gaussian_filter((labels == n).astype(np.float32), 1.0) for n in range(62)]) * 20 - 10
    np.save(folder / "logits.npy", logits.astype(np.float16))
    shape = [2 * n for n in labels.shape]
    facts = {
        "shape_before_cropping": shape,
        "bbox_used_for_cropping": [[0, n] for n in shape],
        "shape_after_cropping_and_before_resampling": shape,
        "spacing": [1.5, 1.5, 1.5],
        "sitk_stuff": {
            "spacing": [1.5, 1.5, 1.5],
            "origin": [0.0, 0.0, 0.0],
            "direction": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        },
    }
    (folder / "properties.json").write_text(json.dumps(facts))
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{f"structure_{n}": n for n in range(1, 62)}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    plans = json.loads((DEFAULT_MODEL / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [3.0, 3.0, 3.0]
    (folder / "plans.json").write_text(json.dumps(plans))


def export_job(folder: Path, output: Path) -> None:
    """Run in a process of its own, by either interpreter: export once and print the figures."""
    import resource
    import time

    logits = np.load(folder / "logits.npy")
    properties = json.loads((folder / "properties.json").read_text())
    try:
        import nnunet_pt  # noqa: F401
    except ImportError:
        export = peer_export(folder, output)
    else:
        export = our_export(folder, output)
    start = time.perf_counter()
    export(logits, properties)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak_gb": peak}))


def our_export(folder: Path, output: Path) -> Any:
    from nnunet_pt.core.resources import available_cpus
    from nnunet_pt.dataset.description import DatasetDescription
    from nnunet_pt.dataset.images.registry import reader_writer_by_name
    from nnunet_pt.dataset.labels import Labels
    from nnunet_pt.inference.export import export_prediction
    from nnunet_pt.plans.plans import Plans

    plans = Plans.load(folder / "plans.json")
    settings = {
        "plans": plans,
        "configuration": plans.configuration("3d_fullres"),
        "labels": Labels.from_description(DatasetDescription.load(folder / "dataset.json")),
        "reader_writer": reader_writer_by_name(plans.image_reader_writer),
        "output": output,
        "file_ending": ".nii.gz",
        "threads": available_cpus(),
    }
    return lambda logits, properties: export_prediction(logits, properties, **settings)


def peer_export(folder: Path, output: Path) -> Any:
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(folder / "plans.json"))
    configuration = plans.get_configuration("3d_fullres")
    dataset = json.loads((folder / "dataset.json").read_text())
    return lambda logits, properties: export_prediction_from_logits(
        logits, properties, configuration, plans, dataset, str(output)
    )


def agreement(side: Side, reference: Side) -> str:
    """Share of equal voxels over all files of two results, and in the worst of them."""
    import SimpleITK

    if side is reference or side.result is None or reference.result is None:
        return ""
    folder = reference.result
    pairs = [(path, side.result / path.name) for path in sorted(folder.glob("*.nii.gz"))]
    if not pairs:
        pairs = [(Path(f"{folder}.nii.gz"), Path(f"{side.result}.nii.gz"))]
    equal = []
    for pair in pairs:
        one, other = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) for path in pair)
        equal.append(float((one == other).mean()))
    return f"{100 * statistics.mean(equal):.3f} % equal voxels, worst case {100 * min(equal):.3f} %"


def table(job: str, sides: list[Side]) -> str:
    reference = sides[0]
    lines = []
    for side in sides:
        ratio = "" if side is reference else f"{reference.seconds / side.seconds:.2f}x"
        lines.append(
            f"| {TITLES[job] if side is reference else ''} | {side.name} | {side.seconds:.2f} s | {ratio} "
            f"| {side.peak_gb:.2f} GB | {agreement(side, reference)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter of an environment with nnunetv2 2.8.1")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with the raw datasets (%(default)s)")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="model folder (%(default)s)")
    parser.add_argument("--images", type=Path, help="images for it (imagesTs of Dataset004)")
    parser.add_argument("--fold", default="0", help="fold of the model (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--precision", nargs="+", default=["auto", "fp32"], help="ours (%(default)s)")
    parser.add_argument("--tiles", nargs="+", type=int, default=[0], help="ours: tiles at once; 0: its own choice")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES), help="some of the rows")
    parser.add_argument("--json", type=Path, help="write all single runs here")
    parser.add_argument("--export_job", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.export_job:
        export_job(*args.export_job)
        return
    everything = {}
    print("| work | | time | ratio | memory | agreement with the first |\n|---|---|---|---|---|---|")
    for job in args.only:
        with tempfile.TemporaryDirectory(prefix="benchmark_") as tmp:
            folder = Path(tmp)
            sides = benchmark_export(args, folder) if job == "export" else benchmark_predict(job, args, folder)
            print(table(job, sides), flush=True)
            everything[job] = {side.name: [vars(r) for r in side.runs] for side in sides}
    if args.json:
        args.json.write_text(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
