"""Packing, installing and downloading models as users type it."""

from __future__ import annotations

import hashlib
import importlib
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.cli import (
    download_pretrained_model_by_url,
    export_model_to_zip,
    install_pretrained_model_from_zip,
)
from nnunet_pt.sharing.download import DownloadRequest
from nnunet_pt.sharing.export_model import ExportRequest
from nnunet_pt.sharing.install_model import InstallRequest
from nnunet_pt.transfer.checkpoint import Checkpoint, write_checkpoint

MODEL = "nnUNetTrainer__nnUNetPlans__2d"
NAME = "Dataset902_PhantomFinetune"


@pytest.fixture
def trained(measured_workspace: Path) -> Path:
    """A workspace with a model of Dataset902, as far as sharing is concerned."""
    folder = measured_workspace / "nnUNet_results" / NAME / MODEL
    write_checkpoint(
        folder / "fold_0" / "checkpoint_final.pth",
        Checkpoint(
            network_weights={"weight": torch.zeros(3)},
            init_args={"plans": {}, "configuration": "2d", "fold": 0, "dataset_json": {}},
            trainer_name="nnUNetTrainer",
        ),
    )
    preprocessed = measured_workspace / "nnUNet_preprocessed" / NAME
    for source, target in (("nnUNetPlans.json", "plans.json"), ("dataset.json", "dataset.json")):
        (folder / target).write_bytes((preprocessed / source).read_bytes())
    return measured_workspace


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_model_goes_from_one_computer_to_another(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = trained / "model.zip"
    assert export_model_to_zip.main(["-d", "902", "-o", str(archive), "-c", "2d", "-f", "0"]) == 0
    out = capsys.readouterr().out
    assert digest(archive) in out
    assert MODEL in out
    monkeypatch.setenv("nnUNet_results", str(trained / "elsewhere"))
    assert install_pretrained_model_from_zip.main([str(archive), "--sha256", digest(archive)]) == 0
    out = capsys.readouterr().out
    assert f"nnUNetv2_predict -d {NAME} -i INPUT_FOLDER -o OUTPUT_FOLDER -c 2d -f 0" in out
    assert (trained / "elsewhere" / NAME / MODEL / "fold_0" / "checkpoint_final.pth").is_file()
    assert install_pretrained_model_from_zip.main([str(archive)]) == 1
    assert "--force" in capsys.readouterr().err
    assert install_pretrained_model_from_zip.main([str(archive), "--force", "--no_pbar"]) == 0
    assert capsys.readouterr().err == ""


@pytest.fixture
def address(trained: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(trained))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_model_is_downloaded(
    trained: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    export_model_to_zip.main(["-d", "902", "-o", str(trained / "model.zip"), "-c", "2d", "-f", "0"])
    monkeypatch.setenv("nnUNet_results", str(trained / "elsewhere"))
    assert download_pretrained_model_by_url.main([f"{address}/model.zip"]) == 0
    assert "nnUNetv2_predict" in capsys.readouterr().out
    assert download_pretrained_model_by_url.main([f"{address}/other.zip"]) == 1
    assert "HTTP status 404" in capsys.readouterr().err
    assert [path.name for path in (trained / "elsewhere").iterdir()] == [NAME]


@pytest.mark.usefixtures("trained")
def test_wrong_arguments_are_told_from_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos.zip").write_bytes(b"not a zip")
    for command, arguments, status, text in (
        (export_model_to_zip, ["-d", "902", "-o", str(tmp_path)], 2, "is a folder"),
        (export_model_to_zip, ["-d", "902", "-o", "m.zip"], 1, "fold_1/checkpoint_final.pth"),
        (export_model_to_zip, ["-d", "555", "-o", "m.zip"], 1, "There is no dataset with the number 555"),
        (install_pretrained_model_from_zip, [str(tmp_path / "photos.zip")], 1, "is not a ZIP archive"),
        (download_pretrained_model_by_url, ["file:///x.zip"], 2, "cannot be downloaded"),
    ):
        assert command.main(arguments) == status
        assert text in capsys.readouterr().err
    for digest_text in ("abc", "g" * 64):
        with pytest.raises(SystemExit):
            install_pretrained_model_from_zip.main(["m.zip", "--sha256", digest_text])
    assert not Path("m.zip").exists()


@pytest.mark.usefixtures("trained")
def test_what_is_missing_is_left_out_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_model_to_zip.main(["-d", "902", "-o", str(tmp_path / "m.zip"), "--not_strict", "--small"]) == 0
    out = capsys.readouterr().out
    assert "Warning: Left out" in out
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        assert f"{NAME}/{MODEL}/fold_0/checkpoint_final.pth" in archive.namelist()


def request(module: str, arguments: str) -> Any:
    loaded = importlib.import_module(f"nnunet_pt.cli.{module}")
    return loaded.request(loaded.build_parser().parse_args(arguments.split()))


def test_every_argument_reaches_its_request() -> None:
    assert request("export_model_to_zip", "-d 4 -o m.zip") == ExportRequest(dataset=4, output=Path("m.zip"))
    arguments = (
        "-d Dataset004_A -o m.zip -c 2d mine -tr A B -p C D -f 1 all -chk x.pth y.pth --not_strict --exp_cv_preds "
        "--small --no_pbar"
    )
    assert request("export_model_to_zip", arguments) == ExportRequest(
        dataset="Dataset004_A",
        output=Path("m.zip"),
        configurations=("2d", "mine"),
        trainers=("A", "B"),
        plans_names=("C", "D"),
        folds=(1, "all"),
        checkpoints=("x.pth", "y.pth"),
        strict=False,
        with_predictions=True,
        small=True,
        progress=False,
    )
    hexadecimal = "0123456789abcdef" * 4
    checks = {"sha256": hexadecimal, "force": True, "max_gb": 2.5, "progress": False}
    flags = f"--sha256 {hexadecimal.upper()} --force --max_gb 2.5 --no_pbar"
    module = "install_pretrained_model_from_zip"
    assert request(module, "m.zip") == InstallRequest(archive=Path("m.zip"))
    assert request(module, f"m.zip {flags}") == InstallRequest(archive=Path("m.zip"), **checks)  # type: ignore[arg-type]
    module = "download_pretrained_model_by_url"
    assert request(module, "https://x/y.zip") == DownloadRequest(url="https://x/y.zip")
    assert request(module, f"https://x/y.zip {flags}") == DownloadRequest(url="https://x/y.zip", **checks)  # type: ignore[arg-type]
