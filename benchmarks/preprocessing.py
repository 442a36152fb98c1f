"""How fast and how small the data side is, beside nnU-Net 2.8.1.

    python benchmarks/preprocessing.py                                   # this project alone
    python benchmarks/preprocessing.py --peer /path/to/env/bin/python    # side by side, alternating
    python benchmarks/preprocessing.py --only image segmentation --repeats 9

Every run is a process of its own; runs of both sides alternate, and medians are compared. Without --peer the ratio is
taken to figures of nnU-Net 2.8.1 recorded on two cores. Prints a Markdown table; --json writes all single runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
DEFAULT_DATA = Path(os.environ.get("CONFORMANCE_DATA", HERE.parent.parent / "shared" / "data"))
FINGERPRINT_DATASET, CT_DATASET = "Dataset015_BraTSmini", "Dataset020_TotalCT"
COMMANDS = (
    "nnUNetv2_plan_and_preprocess",
    "nnUNetv2_extract_fingerprint",
    "nnUNetv2_plan_experiment",
    "nnUNetv2_preprocess",
    "nnUNetv2_move_plans_between_datasets",
    "nnUNetv2_convert_MSD_dataset",
)
# seconds and GB in the largest process, nnU-Net 2.8.1 with two cores
RECORDED = {
    "image": (1.36, None),
    "segmentation": (34.6, None),
    "probabilities": (47.7, 6.1),
    "fingerprint": (19.1, 2.8),
    "ct": (59.0, None),
    "help": (7.8, None),
}
TITLES = {
    "image": "cubic resampling, 155x240x240 to 124x192x192",
    "segmentation": "segmentation, 62 labels, 112x101x122 to twice the size",
    "probabilities": "62 probability maps, 112x101x122 to twice the size, then argmax",
    "fingerprint": "fingerprint of Dataset015, -np 2",
    "ct": "CT Dataset020 at 1.5 mm, preprocessing of 3d_fullres, -np 2",
    "help": "--help, slowest command",
}


@dataclass
class Run:
    """One measurement."""

    seconds: float
    peak_gb: float


@dataclass
class Side:
    """All runs of one implementation, and the last result for comparison."""

    runs: list[Run] = field(default_factory=list)
    result: Path | None = None

    @property
    def seconds(self) -> float:
        return statistics.median(r.seconds for r in self.runs)

    @property
    def peak_gb(self) -> float:
        return max(r.peak_gb for r in self.runs)


_WRAPPER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
seconds = time.perf_counter() - start
if done.returncode:
    sys.exit(done.stdout[-2000:])
print(json.dumps({"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20}))
"""


def measure(command: list[str], env: dict[str, str], *, wrapped: bool) -> Run:
    """Run a command and read its figures; ``wrapped`` measures it from outside, over all its processes."""
    full = [sys.executable, "-c", _WRAPPER, *command] if wrapped else command
    done = subprocess.run(full, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return Run(**json.loads(done.stdout.strip().splitlines()[-1]))


def alternate(sides: dict[str, Side], repeats: int, once: Callable[[str], Run]) -> None:
    """Run the sides in turn."""
    for _ in range(repeats):
        for name, side in sides.items():
            side.runs.append(once(name))


def resampling_input(job: str, data: Path, path: Path) -> None:
    """Write the array that a resampling job works on."""
    random = np.random.default_rng(0)
    if job == "image":
        array = random.normal(size=(1, 155, 240, 240)).astype(np.float32)
        shape, spacing, new_spacing = (124, 192, 192), (1.0, 1.0, 1.0), (1.25, 1.25, 1.25)
    else:
        labels = organ_labels(data)
        shape, spacing, new_spacing = tuple(2 * n for n in labels.shape), (3.0, 3.0, 3.0), (1.5, 1.5, 1.5)
        array = labels[None]
        if job == "probabilities":
            from scipy.ndimage import gaussian_filter

            array = np.stack([gaussian_filter((labels == n).astype(np.float32), 1.0) for n in range(62)])
            array /= array.sum(0, keepdims=True)
    np.savez(path, array=array, new_shape=shape, spacing=spacing, new_spacing=new_spacing)


def organ_labels(data: Path) -> np.ndarray:
    """The 61 structures of the CT, or as many random cells if the data are not there."""
    path = data / CT_DATASET / "labelsTr" / "ct_full.nii.gz"
    if path.is_file():
        import SimpleITK

        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.int16)
    random = np.random.default_rng(1)
    shape = (112, 101, 122)
    from scipy.spatial import cKDTree

    centres = random.uniform(0, 1, (62, 3)) * shape
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    return cKDTree(centres).query(grid)[1].reshape(shape).astype(np.int16)


def benchmark_resampling(job: str, args: argparse.Namespace, folder: Path) -> dict[str, Side]:
    sides = make_sides(args)
    source = folder / f"{job}.npz"
    resampling_input(job, args.data, source)

    def once(name: str) -> Run:
        side = sides[name]
        side.result = folder / f"{job}_{name}.npy"
        python = sys.executable if name == "ours" else args.peer
        script = str(HERE / "_resampling_job.py")
        return measure([python, script, name, job, str(source), str(side.result)], dict(os.environ), wrapped=False)

    alternate(sides, args.repeats, once)
    return sides


def workspace(name: str, dataset: str, args: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Environment of a command: folders of its own, the raw data linked, the side's commands first on PATH."""
    root = folder / name
    env = dict(os.environ)
    for variable, sub in (
        ("nnUNet_raw", "raw"),
        ("nnUNet_preprocessed", "preprocessed"),
        ("nnUNet_results", "results"),
    ):
        (root / sub).mkdir(parents=True, exist_ok=True)
        env[variable] = str(root / sub)
    link = root / "raw" / dataset
    if not link.exists():
        link.symlink_to((args.data / dataset).resolve())
    # not resolve(): the link to the interpreter is what lies in the environment's bin
    binaries = Path(sys.executable if name == "ours" else args.peer).absolute().parent
    env["PATH"] = f"{binaries}{os.pathsep}{env['PATH']}"
    return env


def on_path(command: str, env: dict[str, str]) -> str:
    found = shutil.which(command, path=env["PATH"])
    if found is None:
        raise SystemExit(f"{command} is not installed in {env['PATH'].split(os.pathsep)[0]}")
    return found


def benchmark_fingerprint(args: argparse.Namespace, folder: Path) -> dict[str, Side]:
    sides = make_sides(args)

    def once(name: str) -> Run:
        env = workspace(name, FINGERPRINT_DATASET, args, folder)
        command = on_path("nnUNetv2_extract_fingerprint", env)
        run = measure([command, "-d", "15", "-np", "2", "--clean"], env, wrapped=True)
        sides[name].result = Path(env["nnUNet_preprocessed"]) / FINGERPRINT_DATASET / "dataset_fingerprint.json"
        return run

    alternate(sides, args.repeats, once)
    return sides


def benchmark_ct(args: argparse.Namespace, folder: Path) -> dict[str, Side]:
    sides = make_sides(args)
    for name in sides:
        env = workspace(name, CT_DATASET, args, folder)
        measure([on_path("nnUNetv2_extract_fingerprint", env), "-d", "20", "-np", "2"], env, wrapped=True)
        plan = [on_path("nnUNetv2_plan_experiment", env), "-d", "20", "-overwrite_plans_name", "iso15"]
        measure([*plan, "-overwrite_target_spacing", "1.5", "1.5", "1.5"], env, wrapped=True)

    def once(name: str) -> Run:
        env = workspace(name, CT_DATASET, args, folder)
        preprocessed = Path(env["nnUNet_preprocessed"]) / CT_DATASET
        shutil.rmtree(preprocessed / "iso15_3d_fullres", ignore_errors=True)
        command = [on_path("nnUNetv2_preprocess", env), "-d", "20", "-plans_name", "iso15", "-c", "3d_fullres"]
        return measure([*command, "-np", "2"], env, wrapped=True)

    alternate(sides, args.repeats, once)
    return sides


def benchmark_help(args: argparse.Namespace, folder: Path) -> dict[str, Side]:
    sides = make_sides(args)
    slowest = {}
    for command in COMMANDS:
        tried = make_sides(args)

        def once(name: str, command: str = command) -> Run:
            env = workspace(name, FINGERPRINT_DATASET, args, folder)
            return measure([on_path(command, env), "--help"], env, wrapped=True)

        alternate(tried, args.repeats, once)
        print("  " + command, *(f"{n} {s.seconds:.2f} s" for n, s in tried.items()), file=sys.stderr)
        for name, side in tried.items():
            if name not in slowest or side.seconds > slowest[name].seconds:
                slowest[name] = side
    sides.update(slowest)
    return sides


def make_sides(args: argparse.Namespace) -> dict[str, Side]:
    return {"ours": Side(), **({"peer": Side()} if args.peer else {})}


def agreement(job: str, sides: dict[str, Side]) -> str:
    """How well the results of both sides agree."""
    if "peer" not in sides or sides["ours"].result is None or sides["peer"].result is None:
        return "-"
    if sides["ours"].result.suffix == ".json":
        ours, peer = (json.loads(s.result.read_text()) for s in (sides["ours"], sides["peer"]))
        return f"largest relative difference {largest_difference(ours, peer):.1e}"
    ours, peer = (np.load(s.result) for s in (sides["ours"], sides["peer"]))
    if job == "image":
        return f"largest error {np.abs(ours - peer).max() / np.ptp(peer):.1e} of the range"
    return f"{100 * (ours == peer).mean():.4f} % equal voxels"


def largest_difference(ours: object, peer: object) -> float:
    """Largest relative difference of any number in two JSON values of the same structure."""
    if isinstance(peer, dict) and isinstance(ours, dict) and ours.keys() == peer.keys():
        return max(largest_difference(ours[k], peer[k]) for k in peer)
    if isinstance(peer, list) and isinstance(ours, list) and len(ours) == len(peer):
        return max((largest_difference(a, b) for a, b in zip(ours, peer, strict=True)), default=0.0)
    if isinstance(peer, (int, float)) and isinstance(ours, (int, float)):
        return abs(ours - peer) / max(abs(peer), 1e-6)
    return 0.0 if ours == peer else float("inf")


def row(job: str, sides: dict[str, Side]) -> str:
    ours, peer = sides["ours"], sides.get("peer")
    seconds, peak = (peer.seconds, peer.peak_gb) if peer else RECORDED[job]
    note = "" if peer else " (recorded)"
    peak_text = "-" if peak is None else f"{peak:.2f} GB"
    return (
        f"| {TITLES[job]} | {seconds:.2f} s{note} | {ours.seconds:.3f} s | {seconds / ours.seconds:.1f}x "
        f"| {peak_text} | {ours.peak_gb:.2f} GB | {agreement(job, sides)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter of an environment with nnunetv2 2.8.1")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with the raw datasets (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES), help="some of the rows")
    parser.add_argument("--json", type=Path, help="write all single runs here")
    args = parser.parse_args()
    everything = {}
    print("| work | nnU-Net 2.8.1 | nnunet_pt | ratio | its memory | our memory | agreement |")
    print("|---|---|---|---|---|---|---|")
    for job in args.only:
        with tempfile.TemporaryDirectory(prefix="benchmark_") as tmp:
            folder = Path(tmp)
            needed = {"fingerprint": FINGERPRINT_DATASET, "ct": CT_DATASET}.get(job)
            if needed and not (args.data / needed).is_dir():
                print(f"| {TITLES[job]} | not run: {args.data / needed} is not there | | | | | |")
                continue
            commands = {"fingerprint": benchmark_fingerprint, "ct": benchmark_ct, "help": benchmark_help}
            sides = commands[job](args, folder) if job in commands else benchmark_resampling(job, args, folder)
            print(row(job, sides), flush=True)
            everything[job] = {n: [vars(r) for r in s.runs] for n, s in sides.items()}
    if args.json:
        args.json.write_text(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
