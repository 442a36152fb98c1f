"""How time, memory and requests to the file system grow with the number of cases: 100, 1,000, 10,000.

    python benchmarks/scale.py                                  about five minutes on two cores
    python benchmarks/scale.py --cases 100 1000 --out scale.json

The images have 12x12x12 voxels, so that what is measured is what each case costs beside its voxels: finding,
checking, listing, remembering. Of the images there are 20; all others are hard links to them under names of their own,
which every step opens and reads like any other file. Each step is the command that a user would type, in a process of
its own, with the workers that it starts. A training is stopped when it has its first batch.

Wall times are upper bounds on a machine with other work; CPU times of the main process are what bookkeeping costs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

DATASET = "Dataset900_Scale"
SIDE = 12
DIFFERENT = 20
STEP = Path(__file__).with_name("_scale_step.py")
STOPPED = 143  # exit status after SIGTERM
SECONDS_TO_START = 10.0
BOOKKEEPING_MB = 500.0
_SMALL_S = 2e-4  # CPU time for a case that is lost in the noise of the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One step with one number of cases.

    Attributes:
        step: What was done.
        cases: Number of cases of the dataset.
        wall_s: From the start of the process to its end; of a training to its first batch.
        cpu_s: CPU time of the main process until then.
        workers_cpu_s: CPU time of the processes that it started.
        peak_mb: Most memory of the main process.
        worker_peak_mb: Most memory of one of the others.
        opened: Files that the main process opened.
        listed: Folders that it listed.
        stat: Files that it looked at otherwise.
    """

    step: str
    cases: int
    wall_s: float
    cpu_s: float
    workers_cpu_s: float
    peak_mb: float
    worker_peak_mb: float
    opened: int
    listed: int
    stat: int


def make_dataset(root: Path, cases: int) -> Path:
    """A raw dataset; gives its folder."""
    import SimpleITK as sitk

    folder = root / "raw" / DATASET
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(cases):
        names = {"imagesTr": f"case_{number:06d}_0000.nii.gz", "labelsTr": f"case_{number:06d}.nii.gz"}
        if number >= DIFFERENT:
            for kind, name in names.items():
                os.link(
                    folder / kind / name.replace(f"{number:06d}", f"{number % DIFFERENT:06d}"), folder / kind / name
                )
            continue
        random = np.random.default_rng(number)
        label = np.zeros((SIDE,) * 3, np.uint8)
        low = random.integers(1, 6, 3)
        label[tuple(slice(a, a + 5) for a in low)] = 1
        image = (random.normal(100, 10, label.shape) + 80 * label).astype(np.int16)
        for kind, array in (("imagesTr", image), ("labelsTr", label)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / kind / names[kind]), True)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "thing": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def steps(root: Path, workers: int) -> Iterator[tuple[str, list[str]]]:
    """Names of the steps, and what to run for each."""
    d, np_ = ["-d", "900"], ["-np", str(workers)]
    labels, predictions = root / "raw" / DATASET / "labelsTr", root / "predictions"
    preprocess = ["preprocess", *d, "-c", "3d_fullres", *np_]
    train = ["train", "900", "3d_fullres", "0", "-device", "cpu", "-epochs", "2", "-iterations", "2"]
    predict = ["predict", *d, "-c", "3d_fullres", "-f", "0", "-chk", "checkpoint_latest.pth", "-device", "cpu"]
    predict += ["-i", str(root / "raw" / DATASET / "imagesTr"), "-o", str(predictions), "--continue_prediction"]
    yield "integrity check and fingerprint", ["extract_fingerprint", *d, "--verify_dataset_integrity", *np_]
    yield "fingerprint again (nothing to do)", ["extract_fingerprint", *d, *np_]
    yield "plan", ["plan_experiment", *d]
    yield "preprocessing", preprocess
    yield "preprocessing again (nothing to do)", preprocess
    yield "training, to the first batch", train
    yield "training continued (--c), to the first batch", [*train, "--c"]
    yield "training with new copies (-scratch)", [*train, "-scratch", str(root / "disk")]
    yield "training with copies that are there", [*train, "--c", "-scratch", str(root / "disk")]
    yield "prediction (nothing to do)", predict
    yield "evaluation", ["evaluate_simple", str(labels), str(predictions), "-l", "1", *np_]


def measure(root: Path, cases: int, workers: int) -> Iterator[Measured]:
    """All steps with a dataset of so many cases.

    Raises:
        RuntimeError: If a step fails.
    """
    folder = make_dataset(root, cases)
    predictions = root / "predictions"
    shutil.copytree(folder / "labelsTr", predictions, copy_function=os.link)
    shutil.copy(folder / "dataset.json", predictions)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "SLURM_TMPDIR"},
        **{f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")},
        "nnUNet_n_proc_DA": str(workers),
        "OMP_NUM_THREADS": "1",
    }
    result = root / "result.json"
    for name, command in steps(root, workers):
        result.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, str(STEP), str(result), *command, "--no_pbar"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        expected = STOPPED if command[0] == "train" else 0
        if done.returncode != expected or not result.is_file():
            raise RuntimeError(f"{name}: exit status {done.returncode}\n{done.stdout[-3000:]}")
        found: dict[str, Any] = json.loads(result.read_text())
        found["wall_s"] = found.pop("first_batch_s", found["wall_s"])
        del found["status"]
        yield Measured(step=name, cases=cases, **{key: _rounded(value) for key, value in found.items()})
        if name == "plan":
            _plan_small_batches(root / "preprocessed" / DATASET / "nnUNetPlans.json")


def _plan_small_batches(file: Path) -> None:
    """Batches as of images of a usual size; of tiny ones, hundreds would fit into a GPU."""
    plans = json.loads(file.read_text())
    for configuration in plans["configurations"].values():
        configuration["batch_size"] = 2
    file.write_text(json.dumps(plans))


def _rounded(value: float) -> float | int:
    return value if isinstance(value, int) else round(value, 3)


def table(measured: Sequence[Measured]) -> str:
    """All figures as Markdown: a row for each step, and in each cell a number for each size of the dataset."""
    sizes = " / ".join(f"{cases:,}" for cases in dict.fromkeys(m.cases for m in measured))
    columns: dict[str, Callable[[Measured], str]] = {
        "time in s": lambda m: f"{m.wall_s:.1f}",
        "CPU time of the main process in s": lambda m: f"{m.cpu_s:.1f}",
        "of its workers": lambda m: f"{m.workers_cpu_s:.1f}",
        "memory of the main process in MB": lambda m: f"{m.peak_mb:.0f}",
        "of a worker": lambda m: f"{m.worker_peak_mb:.0f}",
        "files opened": lambda m: f"{m.opened:,}",
        "looked at": lambda m: f"{m.stat:,}",
    }
    rows = [f"| {sizes} cases | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for step in dict.fromkeys(m.step for m in measured):
        of_step = [m for m in measured if m.step == step]
        rows.append(f"| {step} | {' | '.join(' / '.join(map(text, of_step)) for text in columns.values())} |")
    return "\n".join(rows)


def verdicts(measured: Sequence[Measured]) -> list[str]:
    """What does not reach the goals: time to start a training, memory of the main process, and how both grow."""
    found = []
    most = max(m.cases for m in measured)
    for m in measured:
        if m.cases == most and m.step.startswith("training") and "new" not in m.step and m.wall_s > SECONDS_TO_START:
            found.append(f"{m.step}: {m.wall_s:.1f} s with {m.cases:,} cases, more than {SECONDS_TO_START:.0f} s")
        if m.peak_mb > BOOKKEEPING_MB and not m.step.startswith(("training", "prediction")):
            found.append(f"{m.step}: {m.peak_mb:.0f} MB with {m.cases:,} cases, more than {BOOKKEEPING_MB:.0f} MB")
    for step in dict.fromkeys(m.step for m in measured):
        first, *rest = sorted((m for m in measured if m.step == step), key=lambda m: m.cases)
        slopes = [(m.cpu_s - first.cpu_s) / (m.cases - first.cases) for m in rest]
        if len(slopes) > 1 and slopes[-1] > 2 * max(slopes[-2], _SMALL_S):
            found.append(f"{step}: CPU time for a case grows from {slopes[-2]:.2g} to {slopes[-1]:.2g} s")
    return found


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[100, 1_000, 10_000], help="sizes of the datasets")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of each command")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def main() -> None:
    """Measure, and print the figures."""
    arguments = parse()
    measured: list[Measured] = []
    for cases in arguments.cases:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
            for one in measure(Path(root), cases, arguments.workers):
                measured.append(one)
                print(json.dumps(asdict(one)), flush=True)
                if arguments.out:
                    arguments.out.write_text(json.dumps([asdict(m) for m in measured], indent=1))
    print(f"\n{table(measured)}\n")
    print("\n".join(verdicts(measured)) or "All goals are reached.")


if __name__ == "__main__":
    main()
