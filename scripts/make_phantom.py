"""Make two small artificial datasets in nnU-Net's raw format, for the demo, the documentation and the tests.

Dataset901_PhantomPretrain: 6 cases, near-isotropic voxels, four organs; plays the pretraining dataset.
Dataset902_PhantomFinetune: 5 training and 2 test cases, thick slices, two organs and a lesion; the finetuning dataset.

Every case is an invented body: ellipsoid organs at varying places, each with its own grey value and texture, in a body
on a zero background, under a smooth bias field and with noise. The same seed always makes the same voxels.

    python scripts/make_phantom.py demo/raw
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Organ:
    """An ellipsoid in units of the body's half axes (z, y, x), each in -1..1."""

    label: int
    centre: tuple[float, float, float]
    radius: tuple[float, float, float]
    grey: float
    texture: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """A dataset to make.

    Attributes:
        spacing_mm: Mean voxel spacing (z, y, x); cases vary by up to 15 %.
        extent_mm: Mean size of the field of view (z, y, x); cases vary by up to 15 %.
    """

    name: str
    num_training: int
    num_test: int
    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    labels: Mapping[str, int]
    organs: tuple[Organ, ...]


LIVER = Organ(label=1, centre=(-0.1, -0.1, 0.4), radius=(0.5, 0.42, 0.4), grey=420, texture=45)
SPLEEN = Organ(label=2, centre=(0.0, 0.2, -0.55), radius=(0.4, 0.3, 0.22), grey=560, texture=30)
RIGHT_KIDNEY = Organ(label=3, centre=(0.35, 0.45, 0.38), radius=(0.3, 0.2, 0.16), grey=640, texture=60)
LEFT_KIDNEY = Organ(label=3, centre=(0.4, 0.45, -0.38), radius=(0.3, 0.2, 0.16), grey=640, texture=60)
SPINE = Organ(label=4, centre=(0.0, 0.7, 0.0), radius=(1.0, 0.17, 0.15), grey=230, texture=80)
LESION = Organ(label=3, centre=(-0.1, -0.05, 0.45), radius=(0.16, 0.14, 0.13), grey=690, texture=20)

PHANTOMS = (
    Phantom(
        name="Dataset901_PhantomPretrain",
        num_training=6,
        num_test=0,
        spacing_mm=(2.0, 1.6, 1.6),
        extent_mm=(96.0, 110.0, 120.0),
        labels={"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "spine": 4},
        organs=(LIVER, SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, SPINE),
    ),
    Phantom(
        name="Dataset902_PhantomFinetune",
        num_training=5,
        num_test=2,
        spacing_mm=(5.0, 1.3, 1.3),
        extent_mm=(100.0, 105.0, 115.0),
        labels={"background": 0, "liver": 1, "spleen": 2, "lesion": 3},
        organs=(LIVER, SPLEEN, LESION),
    ),
)


def make_case(phantom: Phantom, rng: np.random.Generator) -> tuple[sitk.Image, sitk.Image]:
    """One image (int16) and its segmentation (uint8)."""
    spacing = np.array(phantom.spacing_mm) * rng.uniform(0.85, 1.15, 3)
    spacing[2] = spacing[1]
    shape = np.maximum(8, np.round(np.array(phantom.extent_mm) * rng.uniform(0.85, 1.15, 3) / spacing)).astype(int)
    body_centre = rng.uniform(-0.04, 0.04, 3)
    grid = [
        (np.linspace(-1, 1, n, dtype=np.float32) - c) / h
        for n, c, h in zip(shape, body_centre, (1.6, 0.82, 0.85), strict=True)
    ]
    z, y, x = np.meshgrid(*grid, indexing="ij")
    body = z**2 / 1.6 + y**2 + x**2 <= 1
    image = np.where(body, 300 + 25 * smooth_noise(rng, shape, 2.0), 0).astype(np.float32)
    labels = np.zeros(tuple(shape), np.uint8)
    for organ in phantom.organs:
        centre = np.array(organ.centre) + rng.uniform(-0.05, 0.05, 3)
        radius = np.array(organ.radius) * rng.uniform(0.85, 1.2, 3)
        distance = sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radius, strict=True))
        wobble = 0.12 * smooth_noise(rng, shape, 3.0)  # no organ is a perfect ellipsoid
        inside = (distance + wobble <= 1) & body
        image[inside] = (organ.grey + organ.texture * smooth_noise(rng, shape, 1.0))[inside]
        labels[inside] = organ.label
    tilt = rng.uniform(-0.15, 0.15, 3)
    bias = np.exp(tilt[0] * z + tilt[1] * y + tilt[2] * x + rng.uniform(-0.1, 0.1) * y * x)
    noise = rng.normal(0, 12, (2, *shape))
    image = np.where(body, np.hypot(image * bias + noise[0], noise[1]), 0)  # Rician, as in magnitude MR images
    origin = rng.uniform(-50, 50, 3)
    return to_image(np.round(image).astype(np.int16), spacing, origin), to_image(labels, spacing, origin)


def smooth_noise(rng: np.random.Generator, shape: NDArray[np.int_], sigma: float) -> NDArray[np.float32]:
    """Gaussian noise with a correlation length of ``sigma`` voxels, mean 0 and standard deviation 1."""
    noise = gaussian_filter(rng.standard_normal(tuple(shape)).astype(np.float32), sigma)
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


def to_image(
    array_zyx: NDArray[np.generic], spacing_zyx: NDArray[np.float64], origin: NDArray[np.float64]
) -> sitk.Image:
    """An array with its geometry."""
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing([float(round(v, 3)) for v in spacing_zyx[::-1]])
    image.SetOrigin([float(round(v, 3)) for v in origin])
    return image


def make_dataset(phantom: Phantom, raw: Path, seed: int) -> bool:
    """Write one dataset; ``dataset.json`` comes last, so a folder that has it is complete.

    Returns:
        Whether anything was written.
    """
    folder = raw / phantom.name
    if (folder / "dataset.json").is_file():
        return False
    for subset, count in (("Tr", phantom.num_training), ("Ts", phantom.num_test)):
        for index in range(count):
            rng = np.random.default_rng([seed, int(phantom.name[7:10]), subset == "Ts", index])
            image, segmentation = make_case(phantom, rng)
            case = f"phantom{subset.lower()}_{index:03d}"
            for kind, data, ending in (("images", image, "_0000.nii.gz"), ("labels", segmentation, ".nii.gz")):
                (folder / f"{kind}{subset}").mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(data, str(folder / f"{kind}{subset}" / f"{case}{ending}"), useCompression=True)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": dict(phantom.labels),
        "numTraining": phantom.num_training,
        "file_ending": ".nii.gz",
        "description": f"artificial images, made with seed {seed}",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=4), encoding="utf-8")
    return True


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder to write the datasets to: your nnUNet_raw")
    parser.add_argument("--seed", type=int, default=2024, help="another seed makes other cases (default: %(default)s)")
    args = parser.parse_args()
    for phantom in PHANTOMS:
        made = make_dataset(phantom, args.raw, args.seed)
        cases = f"{phantom.num_training} training and {phantom.num_test} test cases"
        print(f"{phantom.name}: {cases}{'' if made else ' (already there)'} in {args.raw / phantom.name}")


if __name__ == "__main__":
    main()
