"""A prediction that is killed in the middle of a folder: what is there is complete, and continuing gives the rest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

CASES = tuple(f"case_{i}" for i in range(6))
SLOW = pytest.mark.slow


def begin(command: list[str]) -> subprocess.Popen[str]:
    """Start a command that uses one CPU, so that several at the same time do not wait for each other's threads."""
    return subprocess.Popen(
        command,
        env={**os.environ, "SLURM_CPUS_PER_TASK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Folder:
    """Images, a model, and an output folder."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        self.model = model
        self.out = root / "out"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "nnunet_pt.cli.predict_from_modelfolder", "-i", str(self.root / "images")]
        command += ["-o", str(self.out), "-m", str(self.model), "-f", "0", "-device", "cpu", "-precision", "fp32"]
        command += ["-npp", "1", "-nps", "1", "--save_probabilities", *arguments]
        return begin(command)

    def finish(self, *arguments: str) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    def written(self) -> set[str]:
        return {path.name.removesuffix(".nii.gz") for path in self.out.glob("case_*.nii.gz")}

    def stop(self, number: signal.Signals, *, after: int, delay_s: float = 0.0) -> tuple[int, str, set[str]]:
        """Predict until so many cases are written; the status, what was printed, and what was written before."""
        process = self.start()
        end = time.monotonic() + 90
        while len(self.written()) < after and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(delay_s)
        before = self.written()
        assert process.poll() is None, "it was finished before it could be stopped"
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
        return process.returncode, err, before

    def contents(self) -> dict[str, np.ndarray]:
        """Segmentations and probabilities; reading them fails if a file is truncated."""
        result = {}
        for path in sorted(self.out.glob("case_*")):
            if path.name.endswith(".nii.gz"):
                result[path.name] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    result[path.name] = file["probabilities"]
        return result

    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "prediction_report.json").read_text())
        return content

    def leftovers(self) -> list[str]:
        return [path.name for path in self.out.glob(".*")]


@pytest.fixture(scope="module")
def _begun(tmp_path_factory: pytest.TempPathFactory, small_dataset: Any, tiny_model_folder: Any) -> Folder:
    dataset = small_dataset(tmp_path_factory.mktemp("model"))
    model = tiny_model_folder(dataset)
    images = dataset.root / "images"
    images.mkdir()
    random = np.random.default_rng(1)
    for case in CASES:
        image = sitk.GetImageFromArray(random.normal(size=(30, 32, 34)).astype(np.float32))
        sitk.WriteImage(image, str(images / f"{case}_0000.nii.gz"))
    return Folder(dataset.root, model)


@pytest.fixture(scope="module")
def undisturbed(_begun: Folder) -> dict[str, np.ndarray]:
    """What a run that nobody disturbs predicts."""
    _begun.finish()
    contents = _begun.contents()
    shutil.rmtree(_begun.out)
    assert len(contents) == 2 * len(CASES)
    return contents


@pytest.fixture
def folder(_begun: Folder, tmp_path: Path) -> Folder:
    """The images and the model, and a new output folder."""
    result = Folder(_begun.root, _begun.model)
    result.out = tmp_path / "out"
    return result


def require_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("after", "delay_s"),
    [pytest.param(0, 0.0, marks=SLOW), (1, 0.01), pytest.param(2, 0.05, marks=SLOW), pytest.param(4, 0.1, marks=SLOW)],
)
def test_killed_and_continued(folder: Folder, undisturbed: dict[str, np.ndarray], after: int, delay_s: float) -> None:
    status, _, before = folder.stop(signal.SIGKILL, after=after, delay_s=delay_s)
    assert status == -signal.SIGKILL
    kept = folder.written()
    assert before <= kept
    require_equal(folder.contents(), undisturbed)
    times = {name: (folder.out / f"{name}.nii.gz").stat().st_mtime_ns for name in kept}

    folder.finish("--continue_prediction")
    assert folder.contents().keys() == undisturbed.keys()
    require_equal(folder.contents(), undisturbed)
    assert times == {name: (folder.out / f"{name}.nii.gz").stat().st_mtime_ns for name in kept}
    report = folder.report()
    assert report["status"] == "finished"
    assert {name for name, entry in report["cases"].items() if entry["status"] == "skipped"} == kept
    assert not folder.leftovers()


@pytest.mark.slow
def test_killed_while_earlier_predictions_were_replaced(folder: Folder, undisturbed: dict[str, np.ndarray]) -> None:
    """Predictions of another model do not pass for those of the killed run."""
    folder.out.mkdir()
    for case in CASES:
        for ending in (".nii.gz", ".npz"):
            (folder.out / f"{case}{ending}").write_bytes(b"of another model")
    process = folder.start()
    replaced = folder.out / f"{CASES[0]}.nii.gz"
    end = time.monotonic() + 90
    while replaced.stat().st_size < 50 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    folder.finish("--continue_prediction")
    require_equal(folder.contents(), undisturbed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=SLOW)])
def test_stopped_by_a_signal(
    folder: Folder, undisturbed: dict[str, np.ndarray], number: signal.Signals, status: int
) -> None:
    ended, err, before = folder.stop(number, after=2)
    assert ended == status and "--continue_prediction" in err and "Traceback" not in err
    assert before <= folder.written()
    require_equal(folder.contents(), undisturbed)
    assert not folder.leftovers()
    assert folder.report()["status"] == "interrupted"
    folder.finish("--continue_prediction")
    assert folder.contents().keys() == undisturbed.keys()
    require_equal(folder.contents(), undisturbed)


@pytest.mark.slow
def test_parts_at_the_same_time_in_one_folder(folder: Folder, undisturbed: dict[str, np.ndarray]) -> None:
    """Neither removes what the other one is writing."""
    command = "from nnunet_pt.cli import _predict_arguments as p, predict_from_modelfolder as c; import sys; "
    command += "part = int(sys.argv.pop(1)); parser = c.build_parser(); sys.exit(p.main(parser, lambda args: "
    command += "p.request(args, args.m, num_readers=1, num_exporters=1, num_parts=3, part_id=part), sys.argv[1:]))"
    arguments = ["-i", str(folder.root / "images"), "-o", str(folder.out), "-m", str(folder.model), "-f", "0"]
    arguments += ["-device", "cpu", "-precision", "fp32", "--save_probabilities"]
    parts = [begin([sys.executable, "-c", command, str(part), *arguments]) for part in range(3)]
    for part in parts:
        _, err = part.communicate(timeout=120)
        assert part.returncode == 0, err
    assert folder.contents().keys() == undisturbed.keys()
    require_equal(folder.contents(), undisturbed)
    assert len(list(folder.out.glob("prediction_report_part_*_of_3.json"))) == 3
    assert not folder.leftovers()
