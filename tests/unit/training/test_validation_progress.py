"""A final validation that is interrupted goes on, with the same result; what has changed is predicted anew."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.networks.precision import choose_precision
from nnunet_pt.plans.plans import Plans
from nnunet_pt.training.validation import ValidationRequest, final_validation
from nnunet_pt.training.validation_progress import DoneCases, key_of

CPU = torch.device("cpu")
CASES = ("a1", "b2", "c3")


class Weighted(nn.Module):
    """Label 1 where the image is above a threshold; counts its passes."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold), requires_grad=False)
        self.deep_supervision = False
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        first = x[:, :1] - self.threshold
        return torch.cat([-first, first, 3 * first - 2], 1)


@pytest.fixture
def request_(three: Any) -> ValidationRequest:
    three.preprocess("3d_fullres")
    plans = Plans.from_json(three.plans, "plans")
    return ValidationRequest(
        plans=plans,
        configuration=plans.configuration("3d_fullres"),
        labels=Labels(labels=three.description["labels"]),
        file_ending=".nii.gz",
        preprocessed=three.preprocessed,
        cases=CASES,
        fold_folder=three.root / "fold_0",
    )


def validate(request: ValidationRequest, network: Weighted | None = None, **options: Any) -> int:
    """Validate, and give the number of passes through the network."""
    own = network or Weighted()
    final_validation(own, request, device=CPU, progress=False, **options)
    return own.passes


def contents(request: ValidationRequest) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(request.output.iterdir())}


def in_the_second_case(request: ValidationRequest, act: Callable[[], None], passes: int) -> Callable[[], None]:
    """What to do after each pass: when the first of three cases is noted, something happens."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps > passes // 3:
            end = time.monotonic() + 20
            while '"a1"' not in (request.output / ".in_progress_0.jsonl").read_text() and time.monotonic() < end:
                time.sleep(0.005)
            act()

    return step


def interrupt(request: ValidationRequest, passes: int) -> None:
    """Stop a validation in its second case."""

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(request, on_step=in_the_second_case(request, stop, passes))


@pytest.mark.parametrize("probabilities", [False, True])
def test_it_goes_on_and_the_result_is_the_same(request_: ValidationRequest, probabilities: bool) -> None:
    request = replace(request_, save_probabilities=probabilities)
    passes = validate(request)
    expected = contents(request)
    assert not [name for name in expected if name.startswith(".")]
    for path in request.output.iterdir():
        path.unlink()
    interrupt(request, passes)
    times = {p.name: p.stat().st_mtime_ns for p in request.output.glob("*.nii.gz")}
    assert list(times) == ["a1.nii.gz"]
    assert validate(request) == passes // 3 * 2
    assert contents(request) == expected
    assert {name: (request.output / name).stat().st_mtime_ns for name in times} == times
    assert validate(request) == passes  # after a finished one everything is made anew
    assert contents(request) == expected


@pytest.mark.parametrize("change", ["weights", "probabilities", "mirroring", "case", "lost"])
def test_what_has_changed_is_predicted_anew(request_: ValidationRequest, change: str) -> None:
    passes = validate(request_)
    interrupt(request_, passes)
    done = DoneCases(request_, key_of(Weighted(), request_, CPU, None))
    for case in CASES:
        done.add(case)
    request, network = request_, Weighted(0.5 if change == "weights" else 0.0)
    source = request.preprocessed / request.configuration.data_identifier / "b2.pkl"
    if change == "probabilities":
        request = replace(request, save_probabilities=True)
    elif change == "mirroring":
        request = replace(request, mirror_axes=(0,))
    elif change == "case":
        os.utime(source, ns=(1, 1))
    elif change == "lost":
        request.prediction("b2").unlink()
    made = validate(request, network)
    if change in ("case", "lost"):
        assert 0 < made < passes
    else:
        assert made >= passes


def test_other_numbers_count_as_a_change(request_: ValidationRequest) -> None:
    network, cuda = Weighted(), torch.device("cuda")
    fp32, bf16 = (choose_precision(CPU, name) for name in ("fp32", "bf16"))
    keys = {key_of(network, request_, *how) for how in ((CPU, fp32), (CPU, bf16), (cuda, fp32))}
    assert len(keys) == 3


def test_processes_note_their_own_cases_and_others_go_on(request_: ValidationRequest) -> None:
    """Another number of processes may continue."""
    key = key_of(Weighted(), request_, CPU, None)
    passes = validate(request_)
    DoneCases(request_, key, rank=2).add("c3")
    path = request_.output / ".in_progress_1.jsonl"
    DoneCases(request_, key, rank=1).add("b2")
    path.write_text(path.read_text() + '{"case": "a1", "sour')  # the process was killed while it wrote
    done = DoneCases(request_, key)
    assert [case in done for case in CASES] == [False, True, True]
    assert validate(request_) == passes // 3
    assert not path.exists()


def test_a_failed_case_alone_is_predicted_again(request_: ValidationRequest) -> None:
    passes = validate(request_)
    data = request_.preprocessed / request_.configuration.data_identifier / "b2.b2nd"
    content = data.read_bytes()
    data.write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="case b2"):
        validate(request_)
    data.write_bytes(content)
    assert validate(request_) == passes // 3


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_validation_progress import in_the_second_case, validate
request = pickle.loads(Path({path!r}).read_bytes())
validate(request, on_step=in_the_second_case(request, lambda: os.kill(os.getpid(), signal.SIGKILL), {passes}))
"""


def test_a_killed_one_goes_on(request_: ValidationRequest, tmp_path: Path) -> None:
    passes = validate(request_)
    expected = contents(request_)
    for path in request_.output.iterdir():
        path.unlink()
    pickled = tmp_path / "request.pickle"
    pickled.write_bytes(pickle.dumps(request_))
    code = KILLED.format(folder=str(Path(__file__).parent), path=str(pickled), passes=passes)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert validate(request_) == passes // 3 * 2
    assert contents(request_) == expected
