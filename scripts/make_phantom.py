"""Make two small artificial datasets in nnU-Net's raw format, for the demo, the documentation and the tests.

Dataset901_PhantomPretrain: 24 cases with labels of liver, spleen, kidneys and spine; plays the pretraining dataset.
Dataset902_PhantomFinetune: 5 training and 8 test cases, thicker slices, with labels of liver, spleen and lesions of the
liver; the finetuning dataset. (Lesions are in the images of 901, too, but nobody has marked them there.)

Every case is an invented abdomen in a magnetic resonance scanner: organs of varying place, size and shape in a bent
body, each with a texture, between fat, muscle, vessels and a gut that nobody has marked; a protocol between T1 and T2
weighting, which makes an organ dark in one case and bright in the next; partial volumes, a bias field and noise. The
same seed always makes the same voxels, and a case does not depend on how many others there are.

    python scripts/make_phantom.py demo/nnUNet_raw
    python scripts/make_phantom.py demo/nnUNet_raw --small      6 cases in 901, and 2 test cases in 902
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from nnunet_pt.core.files import write_json

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """How something looks.

    Attributes:
        t1: Grey value in T1-weighted images.
        t2: Grey value in T2-weighted images.
        texture: Standard deviation of its texture, relative to its grey value.
        grain: Size of the texture's grains, in units of the body's half width.
    """

    t1: float
    t2: float
    texture: float = 0.08
    grain: float = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An ellipsoid; lengths are in units of the body's half width (z is the long axis), axes are z, y, x.

    Attributes:
        tissue: What it looks like, a key of :data:`TISSUES`.
        centre: y points to the back, x to the left side of the body.
        radius: Half axes.
        turn: Angle in the slice, in degrees.
        spread: Standard deviation of the centre between cases.
    """

    tissue: str
    centre: tuple[float, float, float]
    radius: tuple[float, float, float]
    turn: float = 0.0
    spread: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """A dataset to make.

    Attributes:
        name: Name of the folder.
        num_training: Training cases.
        num_test: Test cases.
        spacing_mm: Mean voxel spacing (z, y, x); cases vary by up to 10 %.
        extent_mm: Mean size of the field of view (z, y, x); cases vary by up to 10 %.
        labels: Names and numbers, as in ``dataset.json``.
        marked: Number in the segmentation of each tissue that has one.
    """

    name: str
    num_training: int
    num_test: int
    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    labels: Mapping[str, int]
    marked: Mapping[str, int]


TISSUES: Mapping[str, Tissue] = {
    "fat": Tissue(t1=760, t2=620),
    "muscle": Tissue(t1=380, t2=230),
    "gut": Tissue(t1=400, t2=500, texture=0.3, grain=0.07),
    "stomach": Tissue(t1=330, t2=620, texture=0.25, grain=0.12),
    "spine": Tissue(t1=470, t2=420, texture=0.15),
    "aorta": Tissue(t1=280, t2=180, texture=0.05),
    "liver": Tissue(t1=520, t2=340, texture=0.07, grain=0.03),
    "spleen": Tissue(t1=400, t2=560, texture=0.05, grain=0.05),
    "kidney": Tissue(t1=440, t2=640, texture=0.14, grain=0.06),
    "lesion": Tissue(t1=300, t2=660, texture=0.10),
}

PARTS = (
    Part(tissue="stomach", centre=(0.3, -0.25, 0.35), radius=(0.24, 0.22, 0.26), spread=0.08),
    Part(tissue="spine", centre=(0.0, 0.42, 0.0), radius=(3.0, 0.15, 0.14), spread=0.02),
    Part(tissue="aorta", centre=(0.0, 0.22, 0.06), radius=(3.0, 0.05, 0.05), spread=0.02),
    Part(tissue="kidney", centre=(-0.25, 0.35, -0.36), radius=(0.28, 0.13, 0.12), turn=25),
    Part(tissue="kidney", centre=(-0.15, 0.35, 0.38), radius=(0.28, 0.13, 0.12), turn=-25),
    Part(tissue="spleen", centre=(0.3, 0.25, 0.6), radius=(0.26, 0.22, 0.12), turn=20),
    Part(tissue="liver", centre=(0.25, -0.02, -0.42), radius=(0.42, 0.38, 0.32), turn=10),
    Part(tissue="liver", centre=(0.38, -0.28, -0.05), radius=(0.2, 0.18, 0.36), turn=-8),
)

PHANTOMS = (
    Phantom(
        name="Dataset901_PhantomPretrain",
        num_training=24,
        num_test=0,
        spacing_mm=(8.0, 5.5, 5.5),
        extent_mm=(240.0, 250.0, 330.0),
        labels={"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "spine": 4},
        marked={"liver": 1, "lesion": 1, "spleen": 2, "kidney": 3, "spine": 4},
    ),
    Phantom(
        name="Dataset902_PhantomFinetune",
        num_training=5,
        num_test=8,
        spacing_mm=(16.0, 5.0, 5.0),
        extent_mm=(260.0, 250.0, 330.0),
        labels={"background": 0, "liver": 1, "spleen": 2, "lesion": 3},
        marked={"liver": 1, "spleen": 2, "lesion": 3},
    ),
)


def small(phantom: Phantom) -> Phantom:
    """The same with few cases, which are the first ones of the whole dataset."""
    return replace(phantom, num_training=min(phantom.num_training, 6), num_test=min(phantom.num_test, 2))


def make_case(phantom: Phantom, rng: np.random.Generator, *, is_t2: bool) -> tuple[sitk.Image, sitk.Image]:
    """One image (int16) and its segmentation (uint8)."""
    spacing = np.array(phantom.spacing_mm) * rng.uniform(0.9, 1.1, 3)
    spacing[2] = spacing[1]
    shape = np.round(np.array(phantom.extent_mm) * rng.uniform(0.9, 1.1, 3) / spacing).astype(int)
    half_width_mm = 150 * rng.uniform(0.9, 1.08)
    positions = [(np.arange(n) - n / 2) * mm / half_width_mm for n, mm in zip(shape, spacing, strict=True)]
    grid = np.stack(np.meshgrid(*positions, indexing="ij")).astype(np.float32)
    per_voxel = spacing / half_width_mm
    bent = grid + np.stack([0.035 * smooth_noise(rng, shape, 0.25 / per_voxel) for _ in range(3)])

    outline = np.hypot(bent[1] / rng.uniform(0.68, 0.78), bent[2])
    tissue = np.where(outline < rng.uniform(0.8, 0.92), "muscle", "fat").astype(object)
    cavity = np.hypot(bent[1] / 0.62, bent[2] / 0.8) < 1
    tissue[cavity] = "fat"
    tissue[cavity & (smooth_noise(rng, shape, 0.09 / per_voxel) > -0.2)] = "gut"
    for part in (*PARTS, *lesions(rng)):
        tissue[inside(part, bent, rng) & (outline < 0.95)] = part.tissue
    tissue[outline >= 1] = "air"

    image = np.zeros(tuple(shape), np.float32)
    segmentation = np.zeros(tuple(shape), np.uint8)
    weighting = abs(is_t2 - rng.uniform(0, 0.25))
    for name, look in TISSUES.items():
        grey = ((1 - weighting) * look.t1 + weighting * look.t2) * rng.lognormal(0, 0.06)
        texture = smooth_noise(rng, shape, look.grain / per_voxel)
        where = tissue == name
        image[where] = grey * (1 + look.texture * texture[where])
        segmentation[where] = phantom.marked.get(name, 0)
    image = gaussian_filter(image, (0.3, 0.5, 0.5))  # partial volumes
    tilt = rng.normal(0, 0.15, 3)
    bias = np.exp(np.tensordot(tilt, grid, 1) + rng.normal(0, 0.15) * grid[1] * grid[2])
    noise = rng.uniform(12, 35) * rng.standard_normal((2, *shape))
    image = np.hypot(image * bias + noise[0], noise[1])  # Rician, as in magnitude images
    origin = rng.uniform(-50, 50, 3)
    return to_image(np.round(image).astype(np.int16), spacing, origin), to_image(segmentation, spacing, origin)


def lesions(rng: np.random.Generator) -> list[Part]:
    """Two to four lesions at places that the liver covers in every case."""
    parts = []
    for _ in range(rng.integers(2, 5)):
        offset = rng.uniform(-0.5, 0.5, 3) * (0.3, 0.26, 0.22)
        centre = (0.25 + offset[0], -0.02 + offset[1], -0.42 + offset[2])
        radius = rng.uniform(0.09, 0.16)
        parts.append(Part(tissue="lesion", centre=centre, radius=(radius * 1.2, radius, radius), spread=0.02))
    return parts


def inside(part: Part, grid: Image, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Where a part is in one case.

    Args:
        part: The part.
        grid: Positions, shape (3, z, y, x).
        rng: Makes its place, size and shape.
    """
    z, y, x = (grid[axis] - c for axis, c in enumerate(np.array(part.centre) + rng.normal(0, part.spread, 3)))
    angle = np.deg2rad(part.turn + rng.normal(0, 8))
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    radius = np.array(part.radius) * rng.lognormal(0, 0.12, 3)
    return np.asarray((z / radius[0]) ** 2 + (y / radius[1]) ** 2 + (x / radius[2]) ** 2 <= 1)


def smooth_noise(rng: np.random.Generator, shape: NDArray[np.int_], sigma: NDArray[np.float64]) -> Image:
    """Gaussian noise with a correlation length of ``sigma`` voxels along each axis, mean 0 and standard deviation 1."""
    coarse = np.maximum(1.0, sigma / 2)  # made with fewer voxels where it is smooth, which takes less time
    rough = rng.standard_normal(tuple(np.ceil(shape / coarse).astype(int))).astype(np.float32)
    noise = gaussian_filter(rough, sigma / coarse)
    noise = zoom(noise, shape / noise.shape, order=1, grid_mode=True, mode="nearest")
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
    """Write the cases of a dataset that are not there yet; ``dataset.json`` comes last and says how many there are.

    Returns:
        Whether anything was written.
    """
    folder = raw / phantom.name
    file = folder / "dataset.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    first = {"Tr": found.get("numTraining", 0), "Ts": found.get("numTest", 0)}
    wanted = {"Tr": phantom.num_training, "Ts": phantom.num_test}
    if found and all(first[subset] >= wanted[subset] for subset in wanted):
        return False
    for subset, count in wanted.items():
        for index in range(first[subset], count):
            rng = np.random.default_rng([seed, int(phantom.name[7:10]), subset == "Ts", index])
            image, segmentation = make_case(phantom, rng, is_t2=index % 2 == 1)
            case = f"phantom{subset.lower()}_{index:03d}"
            for kind, data, ending in (("images", image, "_0000.nii.gz"), ("labels", segmentation, ".nii.gz")):
                (folder / f"{kind}{subset}").mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(data, str(folder / f"{kind}{subset}" / f"{case}{ending}"), useCompression=True)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": dict(phantom.labels),
        "numTraining": max(first["Tr"], wanted["Tr"]),
        "numTest": max(first["Ts"], wanted["Ts"]),
        "file_ending": ".nii.gz",
        "description": f"artificial images, made with seed {seed}",
    }
    write_json(file, description)
    return True


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder to write the datasets to: your nnUNet_raw")
    parser.add_argument("--small", action="store_true", help="only a few cases")
    parser.add_argument("--seed", type=int, default=2024, help="another seed makes other cases (default: %(default)s)")
    args = parser.parse_args()
    for whole in PHANTOMS:
        phantom = small(whole) if args.small else whole
        made = make_dataset(phantom, args.raw, args.seed)
        cases = f"{phantom.num_training} training and {phantom.num_test} test cases"
        print(f"{phantom.name}: {cases}{'' if made else ' (already there)'} in {args.raw / phantom.name}")


if __name__ == "__main__":
    main()
