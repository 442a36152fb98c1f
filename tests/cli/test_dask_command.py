"""Commands that work on their cases on a Dask cluster."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk

from nnunet_pt.cli import evaluate_simple, extract_fingerprint, plan_and_preprocess, preprocess
from nnunet_pt.cluster import dask_checks

pytestmark = pytest.mark.xdist_group("dask")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler and one worker with two threads, in this process."""
    from distributed import LocalCluster

    dask_checks.quiet()
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        yield str(cluster.scheduler_address)


@pytest.fixture
def failed_connections() -> Iterator[None]:
    """They leave a socket of Dask behind, for the garbage collection."""
    yield
    gc.collect()


def contents(folder: Path) -> dict[str, bytes]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(".manifest.jsonl")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_the_same_files_as_on_one_machine(
    phantom_workspace: Path, address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-d", "902", "-c", "2d", "--no_pbar", "--verify_dataset_integrity"]
    preprocessed = phantom_workspace / "nnUNet_preprocessed"
    assert plan_and_preprocess.main([*words, "-np", "2"]) == 0
    preprocessed.rename(phantom_workspace / "alone")
    monkeypatch.chdir(phantom_workspace)
    monkeypatch.setenv("nnUNet_preprocessed", "nnUNet_preprocessed")  # workers may work in another folder
    preprocessed.mkdir()
    capsys.readouterr()
    assert plan_and_preprocess.main([*words, "--dask", address]) == 0
    said = capsys.readouterr()
    assert f"The Dask cluster at {address}: 1 worker on 1 machine, 2 cases at a time" in said.out
    assert "Preprocessing Dataset902_PhantomFinetune 2d: 6/6" not in said.out and "distributed" not in said.err
    assert contents(preprocessed) == contents(phantom_workspace / "alone")
    assert extract_fingerprint.main(["-d", "902", "--clean", "--no_pbar", "--dask", address]) == 0
    assert preprocess.main(["-d", "902", "-c", "2d", "--no_pbar", "--dask", address.removeprefix("tcp://")]) == 0
    assert "0 preprocessed" in capsys.readouterr().out


def test_an_evaluation_equals_that_of_one_machine(
    phantom_workspace: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = next((phantom_workspace / "nnUNet_raw").glob("Dataset902*")) / "labelsTr"
    (phantom_workspace / "predictions").mkdir()
    for number, file in enumerate(sorted(labels.iterdir())):
        image = sitk.ReadImage(str(file))
        sitk.WriteImage(sitk.BinaryErode(image, [number, 1, 0]), str(phantom_workspace / "predictions" / file.name))
    monkeypatch.chdir(phantom_workspace)
    words = [str(labels), str(phantom_workspace / "predictions"), "-l", "1", "--no_pbar"]
    assert evaluate_simple.main([*words, "-o", "alone.json", "-np", "1"]) == 0
    assert evaluate_simple.main([words[0], "predictions", *words[2:], "-o", "dask.json", "--dask", address]) == 0
    assert Path("alone.json").read_bytes() == Path("dask.json").read_bytes()
    dice = [case["metrics"]["1"]["Dice"] for case in json.loads(Path("dask.json").read_text())["metric_per_case"]]
    assert len(set(dice)) == len(dice) == 5
    assert not [p for p in Path("predictions").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--dask tcp://h:1 --dask_slurm 2", "cannot be used together"),
        ("--dask tcp://h:1 -np 4", "-np cannot be used with --dask"),
        ("--dask_slurm 2 -np 4", "-np cannot be used with --dask_slurm"),
        ("--dask tcp://h:1 -num_parts 2", "-num_parts cannot be used with --dask"),
        ("--dask tcp://h:1 -cluster c.toml", "-cluster is about the jobs of --dask_slurm"),
        ("-cluster c.toml", "-cluster is about the jobs of --dask_slurm"),
        ("--dask host", "no address of a Dask scheduler"),
    ],
)
@pytest.mark.usefixtures("phantom_workspace")
def test_arguments_that_cannot_be_meant(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert preprocess.main(["-d", "902", *words.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("failed_connections")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_errors_end_the_command(
    phantom_workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_checks, "CONNECT_S", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        assert extract_fingerprint.main(["-d", "902", "--dask", address]) == 1
    assert f"The Dask scheduler {address} cannot be reached." in capsys.readouterr().err
    assert extract_fingerprint.main(["-d", "777", "--dask", address]) == 1
    assert "no dataset with the number 777" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(phantom_workspace))
    assert extract_fingerprint.main(["-d", "902", "--dask_slurm", "2"]) == 2
    assert "it has no sbatch" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert extract_fingerprint.main(["-d", "902", "--dask", address]) == 2
    assert "pip install 'nnunet-pt[cluster]'" in capsys.readouterr().err


SLOW = """
import os, time
from pathlib import Path

def sleep(job):
    with (Path(__file__).parent / "processes").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(60)
"""
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what runs in the background
from nnunet_pt.planning import fingerprint_extractor
import slow_task
fingerprint_extractor.measure_case = slow_task.sleep
from nnunet_pt.cli.extract_fingerprint import main
raise SystemExit(main())
"""


def test_ctrl_c_ends_the_command_and_what_it_has_begun(
    phantom_workspace: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (phantom_workspace / "slow_task.py").write_text(SLOW, encoding="utf-8")
    monkeypatch.syspath_prepend(str(phantom_workspace))
    words = [sys.executable, "-c", INTERRUPTED, "-d", "902", "--no_pbar", "--dask", address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    begun = phantom_workspace / "processes"
    wait_for(lambda: begun.exists() and len(begun.read_text().split()) == 2)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=30)
    assert command.returncode == 130 and "Run the same command again to continue" in said and "Traceback" not in said
    wait_for(lambda: not any(Path("/proc", process).exists() for process in begun.read_text().split()))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
