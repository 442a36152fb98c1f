"""How long it takes to read the patches of one training batch, beside nnU-Net 2.8.1.

    nnUNet_preprocessed=... python benchmarks/loading.py Dataset015_BraTSmini 3d_fullres --peer /path/to/env/bin/python

Both sides read in one thread of a process of their own, in turn, and medians are compared. "as needed" reads what the
default augmentation looks at, which is what training does; "whole patch" reads all of the larger patch that rotation
and scaling may need, as nnU-Net always does. Augmentation itself is not included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "nnUNet_preprocessed"


def ours(folder: Path, configuration: dict[str, Any], load_patch: tuple[int, ...], rotation: float) -> Any:
    """Functions that read one batch."""
    import torch

    from nnunet_pt.training.augmentation.base import Pipeline
    from nnunet_pt.training.augmentation.spatial import Spatial
    from nnunet_pt.training.needed_region import needed_region
    from nnunet_pt.training.patches import PatchSource
    from nnunet_pt.training.sampling import PatchSampler, sample_generator

    torch.set_num_threads(1)
    final, size = tuple(configuration["patch_size"]), configuration["batch_size"]
    cases = sorted(p.stem for p in folder.glob("*.pkl"))
    source, sampler = PatchSource(folder, cases), PatchSampler(load_patch=load_patch, final_patch=final)
    pipeline = Pipeline([Spatial(patch_size=final, rotation=(-rotation, rotation))])

    def read(step: int, whole: bool) -> None:
        for index in range(size):
            random = sample_generator(0, "train", step, index)
            case = source.cases[int(random.integers(len(cases)))]
            forced = sampler.forced(random, index, size)
            corner = sampler.choose(
                random, source.shape(case), source.class_locations(case) if forced else None, forced
            )
            parameters = pipeline.sample(random, (source.channels(case), *load_patch))
            region = None if whole else needed_region(pipeline, parameters, load_patch)
            source.read(case, corner, load_patch, region)

    # Different samples: otherwise the second function would find all files open
    return {"as needed": lambda step: read(2 * step, False), "whole patch": lambda step: read(2 * step + 1, True)}


def peer(folder: Path, configuration: dict[str, Any], load_patch: tuple[int, ...], rotation: float) -> Any:
    """A function that reads one batch with nnU-Net."""
    del rotation
    import blosc2
    import torch
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    description = json.loads((folder.parent / "dataset.json").read_text())
    labels = PlansManager(str(folder.parent / "nnUNetPlans.json")).get_label_manager(description)
    loader = nnUNetDataLoader(
        infer_dataset_class(str(folder))(str(folder)),
        configuration["batch_size"],
        load_patch,
        configuration["patch_size"],
        labels,
        oversample_foreground_percent=0.33,
    )
    return {"whole patch": lambda step: loader.generate_train_batch()}  # noqa: ARG005


def medians(functions: dict[str, Callable[[int], None]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for step in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function(step)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def job(args: argparse.Namespace) -> None:
    """Measure one side in this process and print the figures as JSON."""
    preprocessed = Path(os.environ[FOLDER]) / args.dataset
    configuration = json.loads((preprocessed / "nnUNetPlans.json").read_text())["configurations"][args.configuration]
    functions = (ours if args.job == "ours" else peer)(
        preprocessed / configuration["data_identifier"], configuration, tuple(args.load_patch), args.rotation
    )
    print(json.dumps(medians(functions, args.repeats)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("--peer", help="Python of an environment with nnU-Net 2.8.1")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--load_patch", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--rotation", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job(args)
        return
    from nnunet_pt.training.augmentation.geometry import initial_patch_size, patch_geometry

    plans = Path(os.environ[FOLDER]) / args.dataset / "nnUNetPlans.json"
    patch = json.loads(plans.read_text())["configurations"][args.configuration]["patch_size"]
    geometry = patch_geometry(patch)
    load_patch = initial_patch_size(patch, geometry.rotation, dummy_2d=geometry.dummy_2d)
    results: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for side, python in (("ours", sys.executable), ("peer", args.peer)):
            if python is None:
                continue
            command = [python, __file__, args.dataset, args.configuration, "--job", side, "--repeats"]
            command += [
                str(args.repeats),
                "--rotation",
                str(geometry.rotation[1]),
                "--load_patch",
                *map(str, load_patch),
            ]
            figures = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            for name, value in figures.items():
                results.setdefault(f"{side}, {name}", []).append(value)
    print(f"{args.dataset} {args.configuration}: patch {tuple(patch)}, to be read {tuple(load_patch)}")
    for name, values in results.items():
        print(f"  {name}: {statistics.median(values):.1f} ms for a batch ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
