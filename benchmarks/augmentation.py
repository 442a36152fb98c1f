"""How long the augmentation of one training batch takes on one CPU thread, beside nnU-Net 2.8.1.

    python benchmarks/augmentation.py --patch-size 96 160 160 --channels 2 --batch-size 2
    nnUNet_preprocessed=... python benchmarks/augmentation.py --dataset Dataset015_BraTSmini \
        --configuration 3d_fullres --peer /path/to/env/bin/python

Patches are read (or, without a dataset, made up) beforehand and both sides get the same ones. Rounds of both sides
alternate; a round's figure is its mean, since single batches differ by a factor of twenty: most samples are only cut
out, some are rotated. Times are CPU seconds of the only thread, putting the samples into their batch included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PREPROCESSED = "nnUNet_preprocessed"
NUM_PATCHES = 8
Round = Callable[[int, int], float]


def synthetic_patches(load_patch: tuple[int, ...], channels: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth images and blobs of labels."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    images, segmentations = [], []
    for _ in range(NUM_PATCHES):
        images.append(random.standard_normal((channels, *load_patch), dtype=np.float32))
        smooth = gaussian_filter(random.standard_normal(load_patch, dtype=np.float32), 8)
        levels = np.quantile(smooth[::2, ::2], np.linspace(0.7, 1, labels + 1)[:-1])
        segmentations.append(np.digitize(smooth, levels)[None].astype(np.int16))
    return np.stack(images), np.stack(segmentations)


def stored_patches(
    folder: Path, load_patch: tuple[int, ...], final_patch: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Patches of preprocessed cases, drawn as for a training; every third contains foreground for sure."""
    from nnunet_pt.training.patches import PatchSource
    from nnunet_pt.training.sampling import PatchSampler, sample_generator

    source = PatchSource(folder, sorted(p.stem for p in folder.glob("*.pkl")))
    sampler = PatchSampler(load_patch=load_patch, final_patch=final_patch)
    patches = []
    for step in range(NUM_PATCHES):
        random = sample_generator(0, "train", step, 0)
        case = source.cases[int(random.integers(len(source.cases)))]
        forced = step % 3 == 0
        corner = sampler.choose(random, source.shape(case), source.class_locations(case) if forced else None, forced)
        patches.append([part.numpy() for part in source.read(case, corner, load_patch)])
    images, segmentations = zip(*patches, strict=True)
    return np.stack(images), np.stack(segmentations)


def job(args: argparse.Namespace) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]]:
    """What is augmented and how, for both sides."""
    from nnunet_pt.training.augmentation.geometry import initial_patch_size, patch_geometry

    size, patch, masked = args.batch_size, tuple(args.patch_size or ()), [False] * args.channels
    names: dict[str, Any] = {"background": 0, **{f"label {n}": n for n in range(1, args.labels + 1)}}
    order = None
    if args.dataset:
        base = Path(os.environ[PREPROCESSED]) / args.dataset
        configuration = json.loads((base / "nnUNetPlans.json").read_text())["configurations"][args.configuration]
        description = json.loads((base / "dataset.json").read_text())
        names, order = description["labels"], description.get("regions_class_order")
        size = size or configuration["batch_size"]
        patch, masked = tuple(configuration["patch_size"]), configuration["use_mask_for_norm"]
    geometry = patch_geometry(patch)
    load_patch = initial_patch_size(patch, geometry.rotation, dummy_2d=geometry.dummy_2d)
    if args.dataset:
        patches = stored_patches(base / configuration["data_identifier"], load_patch, patch)
    else:
        patches = synthetic_patches(load_patch, args.channels, args.labels)
    scales = [[1 / 2**level] * len(patch) for level in range(4)]
    settings = {
        "patch_size": patch,
        "batch_size": size or 2,
        "rotation": geometry.rotation,
        "dummy_2d": geometry.dummy_2d,
        "mirror_axes": geometry.mirror_axes,
        "use_mask_for_norm": masked,
        "deep_supervision_scales": scales,
        "labels": names,
        "regions_class_order": order,
    }
    return settings, patches


def make_rounds(augment: Callable[[int, Any, Any], list[Any]], patches: tuple[np.ndarray, ...], size: int) -> Round:
    """A function that augments batches and gives the mean of their seconds."""
    import torch

    def one_round(first: int, batches: int) -> float:
        seconds = 0.0
        for batch in range(first, first + batches):
            indices = range(batch * size, (batch + 1) * size)
            # The patches belong to the augmentation, which may overwrite them; reading them is measured elsewhere
            inputs = [[torch.from_numpy(part[index % len(part)].copy()) for part in patches] for index in indices]
            start = time.thread_time()
            samples = [augment(index, *parts) for index, parts in zip(indices, inputs, strict=True)]
            for parts in zip(*samples, strict=True):
                torch.stack(parts)
            seconds += time.thread_time() - start
        return seconds / batches

    return one_round


def ours(settings: dict[str, Any], images: np.ndarray, segmentations: np.ndarray) -> Round:
    """This project's pipeline."""
    import torch

    from nnunet_pt.core.process_memory import keep_freed_memory
    from nnunet_pt.dataset.labels import Labels
    from nnunet_pt.training.augmentation.base import Sample
    from nnunet_pt.training.augmentation.default import AugmentationSettings, default_training_pipeline

    keep_freed_memory()  # as the workers of a training do
    torch.set_num_threads(1)
    labels = {name: tuple(v) if isinstance(v, list) else v for name, v in settings["labels"].items()}
    pipeline = default_training_pipeline(
        AugmentationSettings(
            patch_size=settings["patch_size"],
            labels=Labels(labels=labels, regions_class_order=settings["regions_class_order"]),
            rotation=settings["rotation"],
            dummy_2d=settings["dummy_2d"],
            mirror_axes=settings["mirror_axes"],
            use_mask_for_norm=tuple(settings["use_mask_for_norm"]),
            deep_supervision_scales=tuple(tuple(s) for s in settings["deep_supervision_scales"]),
        )
    )

    def augment(index: int, image: Any, segmentation: Any) -> list[Any]:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([0, index])))
        augmented = pipeline(Sample(image, segmentation), random)
        return [augmented.image, *(augmented.targets or [])]

    return make_rounds(augment, (images, segmentations), settings["batch_size"])


def peer(settings: dict[str, Any], images: np.ndarray, segmentations: np.ndarray) -> Round:
    """nnU-Net's pipeline."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - what nnU-Net draws from
    masked = settings["use_mask_for_norm"]
    names = settings["labels"]
    regions = [v for n, v in names.items() if n not in ("background", "ignore")]
    has_regions = any(isinstance(v, list) and len(v) > 1 for v in regions)
    pipeline = nnUNetTrainer.get_training_transforms(
        np.array(settings["patch_size"]),
        tuple(settings["rotation"]),
        settings["deep_supervision_scales"],
        tuple(settings["mirror_axes"]),
        settings["dummy_2d"],
        use_mask_for_norm=masked,
        foreground_labels=None,
        regions=regions if has_regions else None,
        ignore_label=names.get("ignore"),
    )

    def augment(index: int, image: Any, segmentation: Any) -> list[Any]:
        del index  # nnU-Net draws from numpy's and torch's global generators
        augmented = pipeline(image=image, segmentation=segmentation)
        return [augmented["image"], *augmented["segmentation"]]

    return make_rounds(augment, (images, segmentations), settings["batch_size"])


def serve(folder: Path) -> None:
    """Run rounds of nnU-Net on request: a line with the first batch and the number of batches in, seconds out."""
    patches = np.load(folder / "patches.npz")
    one_round = peer(json.loads((folder / "settings.json").read_text()), patches["images"], patches["segmentations"])
    for line in sys.stdin:
        first, batches = map(int, line.split())
        print(json.dumps(one_round(first, batches)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a folder in nnUNet_preprocessed; otherwise patches are made up")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--patch-size", type=int, nargs="+", default=[96, 160, 160])
    parser.add_argument("--channels", type=int, default=2)
    parser.add_argument("--labels", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="default: that of the plans, else 2")
    parser.add_argument("--batches", type=int, default=20, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", help="a Python that has nnunetv2")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    settings, (images, segmentations) = job(args)
    sides: dict[str, Round] = {"ours": ours(settings, images, segmentations)}
    with tempfile.TemporaryDirectory() as folder:
        if args.peer:
            np.savez(Path(folder) / "patches.npz", images=images, segmentations=segmentations)
            (Path(folder) / "settings.json").write_text(json.dumps(settings))
            child = subprocess.Popen(
                [args.peer, __file__, "--serve", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

            def ask(first: int, batches: int) -> float:
                assert child.stdin and child.stdout
                child.stdin.write(f"{first} {batches}\n")
                child.stdin.flush()
                return float(json.loads(child.stdout.readline()))

            sides["nnU-Net"] = ask
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for one_round in sides.values():
            one_round(0, 2)
        for number in range(args.rounds):
            for name, one_round in sides.items():
                seconds[name].append(one_round(number * args.batches, args.batches))
        if args.peer:
            child.communicate()
    print(f"batch of {settings['batch_size']} x {images.shape[1]} x {tuple(settings['patch_size'])}")
    print(f"read as {images.shape[2:]}; {args.rounds} rounds of {args.batches} batches")
    for name, figures in seconds.items():
        spread = f"{min(figures):.4f} to {max(figures):.4f}"
        print(f"{name:8} {statistics.median(figures):.4f} s per batch, median of rounds ({spread})")
    if args.peer:
        print(f"ratio    {statistics.median(seconds['nnU-Net']) / statistics.median(seconds['ours']):.2f}")


if __name__ == "__main__":
    main()
