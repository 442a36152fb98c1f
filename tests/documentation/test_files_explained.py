"""The page about files has every file that a dataset, a training and a prediction leave behind."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shown import DOCUMENTATION

PAGE = (DOCUMENTATION / "reference" / "files.md").read_text(encoding="utf-8")
CONFIGURATION = r"(2d|3d_)\w*"
PARTS = {
    "CASE": r"\w+_\d{3}",
    "_0000": r"_\d{4}",
    "DATA_IDENTIFIER": rf"nnUNetPlans\w*_{CONFIGURATION}",
    "PLANS_NAME": r"nnUNet\w*Plans",
    "PLANS_from": r"\w+_from",
    "CONFIGURATION": CONFIGURATION,
    "DatasetXXX": r"Dataset\d{3}",
    "Y_M_D_hh_mm_ss": r"[\d_]+",
    "fold_0": r"fold_\d",
    "folds_0_1_2_3_4": r"folds(_\d)+",
    "NAME": r"\w+",
    "DATE": r"[\d_-]+",
    "MODEL": r"\w+__\w+__\w+",
}


def explained() -> Iterator[re.Pattern[str]]:
    """What names of files and folders look like: the first columns of the tables, and the titles of the sections."""
    for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            for part in name.strip("/").split("/"):
                escaped = re.escape(part)
                for placeholder, pattern in PARTS.items():
                    escaped = escaped.replace(re.escape(placeholder), pattern)
                yield re.compile(escaped)


WORK = """
export nnUNet_raw=$PWD/nnUNet_raw nnUNet_preprocessed=$PWD/nnUNet_preprocessed nnUNet_results=$PWD/nnUNet_results
nnUNetv2_extract_fingerprint -d 4 --verify_dataset_integrity
nnUNetv2_finetune -d 4 -from MODEL_FOLDER
nnUNetv2_train 4 3d_fullres 0
nnUNetv2_predict -d 4 -i imagesTs -o predictions -c 3d_fullres -f 0 --save_probabilities
nnUNetv2_evaluate_folder nnUNet_raw/Dataset004_Hippocampus/labelsTs predictions \\
    -djfile predictions/dataset.json -pfile predictions/plans.json
nnUNetv2_find_best_configuration 902 -c 2d_small -f 0 1
"""


@pytest.mark.xdist_group("documentation")
def test_every_file_left_behind_is_explained(
    world: Path, run_script: Callable[[str, Path], subprocess.CompletedProcess[str]]
) -> None:
    done = run_script(WORK, world)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = [*world.glob("nnUNet_*/Dataset*"), world / "predictions"]
    known = [*explained(), re.compile(PARTS["MODEL"])]
    assert not any(pattern.fullmatch(name) for pattern in known for name in ("something", "new.json", "new_3d.npz"))
    names = {path.name for folder in folders for path in folder.rglob("*")}
    assert len(names) > 50
    assert {name for name in names if not any(pattern.fullmatch(name) for pattern in known)} == set()
