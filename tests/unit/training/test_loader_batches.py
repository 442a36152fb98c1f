from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from loader_cases import Misbehave, make_sampler, make_source, noise_pipeline, write_case

from nnunet_pt.core.errors import StorageError, TrainingError, UsageError, WorkerError
from nnunet_pt.core.settings import Settings
from nnunet_pt.training.augmentation.base import Pipeline, Sample
from nnunet_pt.training.loader import Batch, BatchLoader, default_num_workers


def make_loader(folder: Path, pipeline: Pipeline | None = None, **options: Any) -> BatchLoader:
    return BatchLoader(make_source(folder), make_sampler(), pipeline, **({"batch_size": 2, "seed": 3} | options))


def collect(loader: BatchLoader, first: int, number: int) -> list[Batch]:
    with loader.start(first, number):
        return list(loader)


def assert_same(a: Batch, b: Batch) -> None:
    assert a.step == b.step
    assert a.keys == b.keys
    assert len(a.targets) == len(b.targets)
    for x, y in zip(a.tensors, b.tensors, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path, num_workers: int) -> None:
    expected = collect(make_loader(tmp_path, noise_pipeline()), 0, 9)
    found = collect(make_loader(tmp_path, noise_pipeline(), num_workers=num_workers, prefetch=2), 0, 9)
    assert [b.step for b in found] == list(range(9))
    for a, b in zip(expected, found, strict=True):
        assert_same(a, b)
    assert not torch.equal(found[0].data, found[1].data)


def test_training_that_starts_later_sees_the_same(tmp_path: Path) -> None:
    everything = collect(make_loader(tmp_path, noise_pipeline()), 0, 7)
    for a, b in zip(everything[4:], collect(make_loader(tmp_path, noise_pipeline(), num_workers=2), 4, 3), strict=True):
        assert_same(a, b)


def test_processes_share_one_global_batch(tmp_path: Path) -> None:
    whole = collect(make_loader(tmp_path, noise_pipeline(), batch_size=5), 0, 3)
    first = collect(make_loader(tmp_path, noise_pipeline(), batch_size=3, global_batch_size=5), 0, 3)
    second = collect(make_loader(tmp_path, noise_pipeline(), batch_size=2, global_batch_size=5, sample_offset=3), 0, 3)
    for a, b, c in zip(whole, first, second, strict=True):
        assert a.keys == b.keys + c.keys
        assert torch.equal(a.data, torch.cat([b.data, c.data]))


def test_purposes_and_seeds_give_other_batches(tmp_path: Path) -> None:
    batches = [
        collect(make_loader(tmp_path, noise_pipeline(), **options), 0, 1)[0]
        for options in ({}, {"seed": 4}, {"purpose": "val"})
    ]
    for a, b in itertools.combinations(batches, 2):
        assert not torch.equal(a.data, b.data)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentation_can_be_done_elsewhere(tmp_path: Path, num_workers: int) -> None:
    pipeline = noise_pipeline()
    expected = collect(make_loader(tmp_path, pipeline), 0, 3)
    raw = collect(make_loader(tmp_path, None, num_workers=num_workers), 0, 3)
    for a, b in zip(expected, raw, strict=True):
        assert b.data.dtype == torch.float32
        assert b.targets[0].dtype == torch.int16
        samples = [
            pipeline(Sample(b.data[i].clone(), b.targets[0][i].clone()), b.generators[i]) for i in range(len(b.keys))
        ]
        assert torch.equal(a.data, torch.stack([s.image for s in samples]))


def test_delivered_batches_stay_as_they_are(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, noise_pipeline(), num_workers=2, prefetch=1)
    kept, copies = [], []
    with loader.start():
        for batch in itertools.islice(loader, 12):
            kept.append(batch)
            copies.append(batch.data.clone())
    for batch, copy in zip(kept, copies, strict=True):
        assert torch.equal(batch.data, copy)


def test_workers_run_ahead_with_large_batches(tmp_path: Path) -> None:
    sampler = make_sampler(load_patch=(4, 4), final_patch=(4, 4))
    made = multiprocessing.get_context("fork").Value("i", 0)

    def count() -> None:
        made.value += 1

    loader = BatchLoader(
        make_source(tmp_path), sampler, Pipeline([Misbehave(count)]), batch_size=500, seed=0, num_workers=1, prefetch=4
    )
    with loader.start():
        deadline = time.monotonic() + 20
        while made.value < 2500 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert made.value == 2500


def test_memory_is_used_again(tmp_path: Path) -> None:
    with make_loader(tmp_path, noise_pipeline(), num_workers=1, prefetch=1).start() as loader:
        addresses = [next(loader).data.data_ptr() for _ in range(30)]
    assert len(set(addresses)) < 8


def test_pinning_happens_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())  # there may be no GPU
    expected = collect(make_loader(tmp_path, noise_pipeline()), 0, 6)
    for a, b in zip(
        expected, collect(make_loader(tmp_path, noise_pipeline(), num_workers=2, pin_memory=True), 0, 6), strict=True
    ):
        assert_same(a, b)


@pytest.mark.slow
def test_workers_started_afresh_make_the_same(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from loader_cases import make_sampler, make_source, noise_pipeline
from nnunet_pt.training.loader import BatchLoader
if __name__ == "__main__":
    loader = BatchLoader(make_source(Path({str(tmp_path)!r})), make_sampler(), noise_pipeline(), batch_size=2, seed=3,
                         num_workers=1, start_method="spawn")
    with loader.start(0, 2):
        print(sum(float(b.data.double().sum()) for b in loader))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    expected = sum(float(b.data.double().sum()) for b in collect(make_loader(tmp_path, noise_pipeline()), 0, 2))
    assert float(subprocess.check_output([sys.executable, script])) == expected


def test_script_without_guard_and_without_close_ends(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from loader_cases import make_sampler, make_source, noise_pipeline
from nnunet_pt.training.loader import BatchLoader
source = make_source(Path({str(tmp_path)!r}))
loader = BatchLoader(source, make_sampler(), noise_pipeline(), batch_size=2, seed=3, num_workers=2)
loader.start()
print(next(loader).keys)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "case_" in done.stdout
    assert done.stderr == ""


# --- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1])
def test_exception_names_case_and_reason(tmp_path: Path, num_workers: int) -> None:
    def fail() -> None:
        raise ValueError("no such colour")

    loader = make_loader(tmp_path, Pipeline([Misbehave(fail)]), num_workers=num_workers).start(7)
    with pytest.raises(WorkerError, match=r"case case_00\d \(batch 7, train\)[\s\S]*ValueError: no such colour"):
        next(loader)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lack_of_memory_comes_with_advice(tmp_path: Path, num_workers: int) -> None:
    def fail() -> None:
        raise MemoryError("no 3 TB")

    loader = make_loader(tmp_path, Pipeline([Misbehave(fail)]), num_workers=num_workers).start()
    with pytest.raises(WorkerError, match=r"no 3 TB[\s\S]*nnUNet_n_proc_DA"):
        next(loader)


def test_exit_in_user_code_is_told(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, Pipeline([Misbehave(lambda: os._exit(3))]), num_workers=1).start()
    with pytest.raises(WorkerError, match=r"case case_00\d [\s\S]*exit status 3"):
        next(loader)
    loader = make_loader(tmp_path, Pipeline([Misbehave(lambda: sys.exit("bye"))]), num_workers=1).start()
    with pytest.raises(WorkerError, match=r"case case_00\d [\s\S]*SystemExit: bye"):
        next(loader)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(signal.SIGKILL, "nnUNet_n_proc_DA"), (signal.SIGBUS, "file system"), (signal.SIGSEGV, "--verify")],
)
def test_killed_worker_names_case_and_signal(tmp_path: Path, number: signal.Signals, advice: str) -> None:
    def die() -> None:
        faulthandler.disable()  # pytest's
        os.kill(os.getpid(), number)

    loader = make_loader(tmp_path, Pipeline([Misbehave(die)]), num_workers=2, purpose="val").start()
    started = time.monotonic()
    with pytest.raises(WorkerError, match=rf"case case_00\d \(batch 0, val\)[\s\S]*{number.name}[\s\S]*{advice}"):
        next(loader)
    assert time.monotonic() - started < 5


def test_idle_worker_that_is_killed_is_noticed(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, num_workers=2, prefetch=0).start()
    next(loader)
    for worker in loader._engine._workers:  # type: ignore[union-attr]
        os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL"):
        for _ in range(5):
            next(loader)


def test_signals_for_the_training_do_not_end_workers(tmp_path: Path) -> None:
    with make_loader(tmp_path, noise_pipeline(), num_workers=2, prefetch=0).start() as loader:
        next(loader)
        for worker in loader._engine._workers:  # type: ignore[union-attr]
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                os.kill(worker._process.pid, number)
        assert [next(loader).step for _ in range(6)] == list(range(1, 7))


def test_workers_end_with_the_training(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from loader_cases import make_sampler, make_source, noise_pipeline
from nnunet_pt.training.loader import BatchLoader
loaders = [BatchLoader(make_source(Path({str(tmp_path)!r})), make_sampler(), noise_pipeline(), batch_size=2, seed=3,
                       purpose=p, num_workers=2).start() for p in ("train", "val")]
for loader in loaders:
    next(loader)
print(*[w._process.pid for l in loaders for w in l._engine._workers], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    pids = [int(p) for p in done.stdout.split()]
    assert len(pids) == 4
    deadline = time.monotonic() + 10
    while (alive := [p for p in pids if is_running(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_file_is_named(tmp_path: Path, num_workers: int) -> None:
    loader = make_loader(tmp_path, num_workers=num_workers)
    for path in tmp_path.glob("*_seg.b2nd"):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError, match=r"case_00\d_seg.b2nd is damaged[\s\S]*--verify"):
        next(loader.start())


def test_missing_file_is_named(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, num_workers=1)
    for path in tmp_path.glob("*.pkl"):
        path.unlink()
    with pytest.raises(StorageError, match=r"case_00\d.pkl is missing"):
        list(loader.start(0, 9))


def test_cases_that_do_not_fit_each_other(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, batch_size=12)
    write_case(tmp_path, "case_001", 5, channels=3)
    with pytest.raises(TrainingError, match="does not fit the other cases"):
        next(loader.start())


def test_unannotated_cases_are_mentioned_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = BatchLoader(
        make_source(tmp_path), make_sampler(annotated_key=(-1, 0, 1)), None, batch_size=3, seed=0, num_workers=2
    )
    collect(loader, 0, 6)
    texts = [r.getMessage() for r in caplog.records if "no annotated voxel" in r.getMessage()]
    assert len(texts) == len(set(texts)) == 3


def test_impossible_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        make_loader(tmp_path, num_workers=-1)


def test_default_number_of_workers() -> None:
    assert default_num_workers("train", Settings(num_augmentation_processes=9)) == 9
    assert default_num_workers("val", Settings(num_augmentation_processes=9)) == 4
    assert default_num_workers("val", Settings(num_augmentation_processes=1)) == 1
    assert default_num_workers("val", Settings(num_augmentation_processes=0)) == 0
    assert 1 <= default_num_workers("train", Settings()) <= 12
