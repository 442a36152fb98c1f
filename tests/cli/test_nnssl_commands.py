"""The commands that make plans for pre-trained networks, from their arguments to what the user reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.cli import plan_like_dynamic, preprocess_like_nnssl
from nnunet_pt.planning.pretrained_plans import ADAPTATION_MODES, NORMALIZATIONS
from nnunet_pt.transfer.nnssl_plans import LikeDynamicRequest, LikeNnsslRequest

PLAN = {
    "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None},
    "pretrain_plan": {"configurations": {"onemmiso": {"spacing": [2, 2, 2], "patch_size": [64, 64, 64]}}},
    "recommended_downstream_patchsize": [32, 32, 32],
}


def request(command: Any, line: str) -> Any:
    return command.request(command.build_parser().parse_args(line.split()))


def test_the_parser_offers_what_the_library_knows() -> None:
    assert preprocess_like_nnssl.MODES == ADAPTATION_MODES
    assert preprocess_like_nnssl.NORMALIZATIONS == NORMALIZATIONS


def test_arguments_of_preprocess_like_nnssl() -> None:
    assert request(preprocess_like_nnssl, "-d 4 -n mae -pc a.pth") == LikeNnsslRequest(
        dataset=4, name="mae", checkpoint="a.pth"
    )
    line = (
        "-d Dataset015_B --pretraining_name mae --pretrained_checkpoint OWNER/REPO --adaptation_mode fixed "
        "--override_spacing 3 2 1.5 -norm default_nnunet -np 3 --overwrite_pp --force --max_ram_gb 2 "
        "--continue_on_error --no_pbar"
    )
    assert request(preprocess_like_nnssl, line) == LikeNnsslRequest(
        dataset="Dataset015_B",
        name="mae",
        checkpoint="OWNER/REPO",
        num_processes=3,
        overwrite_preprocessed=True,
        force=True,
        max_ram_gb=2.0,
        progress=False,
        on_failure="continue",
        mode="fixed",
        override_spacing=(3.0, 2.0, 1.5),
        normalization="default_nnunet",
    )


def test_arguments_of_plan_like_dynamic() -> None:
    assert request(plan_like_dynamic, "-d 4 -n mae -pc a.pth -pl nnUNetResEncUNetLPlans") == LikeDynamicRequest(
        dataset=4, name="mae", checkpoint="a.pth", base_plans="nnUNetResEncUNetLPlans"
    )
    assert request(plan_like_dynamic, "-d 4 -n mae -pc a.pth").base_plans == "nnUNetPlans"


@pytest.fixture
def dataset(three: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(three.root / folder))
    monkeypatch.delenv("nnssl_pretrained_models", raising=False)
    return three


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {"encoder.stem.weight": torch.ones(3)}, "nnssl_adaptation_plan": PLAN}, path)
    return path


def arguments(checkpoint: Path | str, line: str = "") -> list[str]:
    return f"-d 7 -n mae -pc {checkpoint} -np 1 --no_pbar {line}".split()


def test_both_commands_say_what_they_wrote_and_how_to_go_on(
    dataset: Any, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess_like_nnssl.main(arguments(checkpoint, "-am like_pretrained")) == 0
    name = "ptPlans__mae____Spacing__2.00_2.00_2.00___Norm__Z"
    said = capsys.readouterr().out
    assert str(dataset.preprocessed / f"{name}.json") in said and "3 preprocessed" in said
    assert f"nnUNetv2_train_pretrained 7 3d_fullres 0 -p {name}" in said
    assert plan_like_dynamic.main(arguments(checkpoint)) == 0
    assert "-tr DynamicPretrainedTrainer -p ptPlans_dynamic__mae" in capsys.readouterr().out


def test_failing_cases_are_named(dataset: Any, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset.image("b2").write_bytes(b"nothing")
    assert preprocess_like_nnssl.main(arguments(checkpoint, "--continue_on_error")) == 1
    said = capsys.readouterr()
    assert "b2" in said.err and "2 preprocessed" in said.out


@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize(
    ("line", "status", "text"),
    [
        ("-am fixed", 2, "needs a spacing"),
        ("-am fixed -os 1 1", 2, "three positive numbers"),
        ("-am fixed -os 1 0 1", 2, "three positive numbers"),
        ("-d 8", 1, "8"),
        ("-n a/b", 2, "part of a file name"),
        ("-pc missing.pth", 1, "no checkpoint"),
        ("-pc https://example.org/a", 2, "not the address of a checkpoint"),
    ],
)
def test_wrong_arguments(
    line: str, status: int, text: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess_like_nnssl.main(arguments(checkpoint, line)) == status
    said = capsys.readouterr().err
    assert text in said and "Traceback" not in said


@pytest.mark.parametrize("line", ["-am foo", "-os a", "-norm ct", "-np 0"])
def test_arguments_that_cannot_be_parsed(line: str) -> None:
    with pytest.raises(SystemExit) as stop:
        preprocess_like_nnssl.main(arguments("a.pth", line))
    assert stop.value.code == 2


class Handler(BaseHTTPRequestHandler):
    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", str(len(content or b"")))
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if body and content is not None:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(checkpoint: Path) -> Iterator[str]:
    start = "/Some-One/Model/resolve/main"
    files = {f"{start}/adaptation_plan.json": json.dumps(PLAN).encode()}
    files[f"{start}/checkpoint_final.pth"] = checkpoint.read_bytes()
    handler = type("Files", (Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed")
def test_checkpoint_of_the_hub(dataset: Any, endpoint: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hub"),
        "nnssl_pretrained_models": str(models),
    }

    def run(reference: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nnunet_pt.cli.preprocess_like_nnssl", *arguments(reference)]
        return subprocess.run(command, env=environment | changes, capture_output=True, text=True, check=False)

    done = run("https://huggingface.co/Some-One/Model/tree/main")
    assert done.returncode == 0, done.stderr
    plans = next(dataset.preprocessed.glob("ptPlans__mae____*.json"))
    file = models / "Some-One_Model" / "checkpoint_final.pth"
    assert json.loads(plans.read_text())["pretrain_info"]["checkpoint_path"] == str(file)
    done = run("Some-One/Model", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0 and "is there already" in done.stdout
    done = run("Some-One/Other")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "The repository Some-One/Other of the Hugging Face hub has no adaptation plan" in done.stderr
