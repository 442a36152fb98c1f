"""Seconds for a training step, with and without the loading of data, beside nnU-Net if it is installed.

    python benchmarks/training.py 4 3d_fullres                          # this package, in the precision it chooses
    python benchmarks/training.py 4 3d_fullres --precision fp32 bf16    # each of them
    python benchmarks/training.py 4 3d_fullres --peer /path/to/python   # nnU-Net's trainer in alternating runs
    python benchmarks/training.py 4 3d_fullres --peer /path/to/python --device cuda --compile 0 1

Each run is a process of its own; runs alternate between the candidates, because machines are noisy. Printed are the
median over runs of: seconds for a step with one fixed batch, seconds for a step with the loader, the share of time
spent waiting for data, samples per second (with the loader) and the largest memory use.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

OURS = "nnunet_pt"
PEER = "nnU-Net"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=int)
    parser.add_argument("configuration")
    parser.add_argument("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", nargs="+", default=["auto"])
    parser.add_argument("--compile", nargs="+", default=["0"], choices=("0", "1"))
    parser.add_argument("--augment_on", nargs="+", default=["cpu"], choices=("cpu", "gpu"))
    parser.add_argument("--steps", type=int, default=5, help="steps of each kind in a run, after two to warm up")
    parser.add_argument("--runs", type=int, default=3, help="alternating runs of each candidate")
    parser.add_argument("--peer", type=Path, help="Python of an environment with nnunetv2")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(measure_ours(args)))
        return
    candidates: dict[str, Callable[[], dict[str, float]]] = {}
    for precision in args.precision:
        for compiled in args.compile:
            for place in args.augment_on:
                name = f"{OURS} {precision}"
                name += " compiled" if compiled == "1" else ""
                name += " gpu augmentation" if place == "gpu" else ""
                candidates[name] = lambda p=precision, c=compiled, a=place: run_ours(args, p, c, a)
    if args.peer:
        for compiled in args.compile:
            name = PEER + (" compiled" if compiled == "1" else "")
            candidates[name] = lambda c=compiled: run_peer(args, c)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
    for index in range(args.runs):
        for name, measure in candidates.items():
            results[name].append(measure())
            print(f"run {index + 1}: {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    report(results)


def report(results: dict[str, list[dict[str, float]]]) -> None:
    """A table of medians, and how much faster than nnU-Net each candidate is."""
    medians = {n: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for n, runs in results.items()}
    peer = next((m for n, m in medians.items() if n.startswith(PEER)), None)
    print(
        f"{'':34}{'step':>9}{'with loader':>13}{'data wait':>11}{'samples/s':>11}{'memory':>10}{'against nnU-Net':>18}"
    )
    for name, m in medians.items():
        ratio = "" if peer is None else f"{peer['step_s'] / m['step_s']:.2f}x {peer['loaded_s'] / m['loaded_s']:.2f}x"
        print(
            f"{name:34}{m['step_s']:8.3f}s{m['loaded_s']:12.3f}s{m['wait_share']:10.1%}{m['samples_per_s']:11.2f}"
            f"{m['memory_gb']:8.2f}GB{ratio:>18}"
        )


def run_ours(args: argparse.Namespace, precision: str, compiled: str, place: str) -> dict[str, float]:
    command = [sys.executable, __file__, str(args.dataset), args.configuration, "-p", args.p, "--device", args.device]
    command += ["--steps", str(args.steps), "--precision", precision, "--augment_on", place, "--job", "ours"]
    return run(command, compiled)


def run_peer(args: argparse.Namespace, compiled: str) -> dict[str, float]:
    setting = {"dataset": args.dataset, "plans": args.p, "configuration": args.configuration}
    setting |= {"device": args.device, "steps": args.steps}
    return run([str(args.peer), "-c", PEER_PROGRAM, json.dumps(setting)], compiled)


def run(command: list[str], compiled: str) -> dict[str, float]:
    """Run a job in a session of its own, so that worker processes it leaves behind can be ended, too."""
    with tempfile.TemporaryDirectory() as results:
        environment = {**os.environ, "nnUNet_results": results, "nnUNet_compile": compiled}
        output = Path(results) / "output.txt"
        with output.open("w") as file:
            job = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
            status = job.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        lines = output.read_text().strip().splitlines()
    figures = [line for line in lines if line.startswith('{"step_s"')]
    if status or not figures:
        raise SystemExit("\n".join([f"{command[:3]} failed", *lines[-30:]]))
    return json.loads(figures[-1])


def measure_ours(args: argparse.Namespace) -> dict[str, float]:
    import torch

    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.networks.device import choose_device
    from nnunet_pt.training.distributed import Processes
    from nnunet_pt.training.history import History
    from nnunet_pt.training.interruption import StopSignals
    from nnunet_pt.training.memory import peak_memory_gb
    from nnunet_pt.training.parts import network_of
    from nnunet_pt.training.process import TrainingProcess
    from nnunet_pt.training.recipe import DEFAULT, with_overrides
    from nnunet_pt.training.task import TrainRequest, prepare
    from nnunet_pt.training.trainer import Trainer

    request = TrainRequest(
        dataset=args.dataset,
        configuration=args.configuration,
        fold="all",
        plans_name=args.p,
        disable_checkpointing=True,
        augment_on=args.augment_on[0],
        progress=False,
    )
    recipe = with_overrides(DEFAULT, precision=args.precision[0], seed=1)
    task = prepare(request, recipe, Workspace.from_environment())
    device = choose_device(args.device)
    process = TrainingProcess(task, Trainer(task), device, Processes(), StopSignals())
    process.set_up_machine()
    torch.manual_seed(1)
    network = network_of(task, device, Processes())
    with process.monitor(History(), continued=False) as monitor:
        process.connect(network, monitor, seed=1)
        trainer = process.trainer
        loader = trainer.parts.train_loader.start(0)
        trainer.parts.network.train()
        for group in trainer.optimizer.param_groups:
            group["lr"] = 1e-3
        batch = next(loader)
        times, loaded, waited = [], [], 0.0
        for index in range(args.steps + 2):
            times.append(timed(lambda: trainer.step(batch), device)[0])
            if index < 2:
                times.clear()
        for _ in range(args.steps):
            seconds, _ = timed(lambda: trainer.step(next(loader)), device)
            loaded.append(seconds)
            waited += loader.waited_s
        loader.close()
    return {
        "step_s": statistics.median(times),
        "loaded_s": statistics.median(loaded),
        "wait_share": waited / sum(loaded),
        "samples_per_s": len(batch.keys) / statistics.median(loaded),
        "memory_gb": peak_memory_gb(device),
    }


def timed(function: Callable[[], object], device: object) -> tuple[float, object]:
    import torch

    started = time.perf_counter()
    value = function()
    if str(device).startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started, value


# Run by the other environment's Python: nnU-Net's own trainer, called as its training command calls it.
PEER_PROGRAM = r"""
import contextlib, io, json, os, resource, statistics, sys, time
setting = json.loads(sys.argv[1])
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

folder = os.environ["nnUNet_preprocessed"]
name = next(n for n in sorted(os.listdir(folder)) if n.startswith("Dataset%03d" % setting["dataset"]))
plans = json.load(open(os.path.join(folder, name, setting["plans"] + ".json")))
dataset = json.load(open(os.path.join(folder, name, "dataset.json")))
plans["continue_training"] = False
device = torch.device(setting["device"])
torch.set_num_threads(os.cpu_count() if setting["device"] == "cpu" else 1)
with contextlib.redirect_stdout(io.StringIO()):
    trainer = nnUNetTrainer(
        plans=plans, configuration=setting["configuration"], fold="all", dataset_json=dataset, device=device
    )
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    steps, loaded, waited = [], [], 0.0

    def timed(function):
        started = time.perf_counter()
        value = function()
        if setting["device"] == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started, value

    for index in range(setting["steps"] + 2):
        seconds, _ = timed(lambda: trainer.train_step(batch))
        if index >= 2:
            steps.append(seconds)
    for _ in range(setting["steps"]):
        wait, batch = timed(lambda: next(trainer.dataloader_train))
        seconds, _ = timed(lambda: trainer.train_step(batch))
        loaded.append(wait + seconds)
        waited += wait
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
if setting["device"] == "cuda":
    memory = torch.cuda.max_memory_allocated() / 2**30
figures = {"step_s": statistics.median(steps), "loaded_s": statistics.median(loaded)}
figures["wait_share"] = waited / sum(loaded)
figures["samples_per_s"] = len(batch["data"]) / statistics.median(loaded)
figures["memory_gb"] = memory
print("\n" + json.dumps(figures), flush=True)
os._exit(0)
"""

if __name__ == "__main__":
    main()
