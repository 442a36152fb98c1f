"""What to predict, with what, and how; as the commands ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.parts import Part
from nnunet_pt.core.value_types import check_fields

ARGUMENTS_FILE = "predict_from_raw_data_args.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What to predict, with what, and how.

    Attributes:
        model_folder: ``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``, or a copy of it.
        inputs: A folder of images, or images.
        output: Folder for the predictions.
        folds: Folds whose predictions are averaged; None: all that are there.
        checkpoint: File name of the weights in each fold's folder.
        step_size: Distance of tiles, as a share of their size.
        mirroring: Average predictions of mirrored tiles.
        device: "cuda", "cpu" or "mps"; None: the fastest there is.
        precision: Of the network's computations.
        results_on_device: Collect the results of tiles where they are computed (CUDA).
        tiles_per_batch: Tiles that go through the network at once; None: as many as pay.
        keep_orientation: Predict images as they lie, even if the training images lay differently.
        save_probabilities: Write probabilities and properties, too.
        continue_prediction: Leave out cases whose prediction exists.
        previous_stage: In a cascade the folder with the previous stage's predictions.
        num_parts: Number of processes that share the cases.
        part_id: Number of this process.
        num_readers: Threads that read and preprocess; 0 together with ``num_exporters``: one case after another.
        num_exporters: Threads that resample and write predictions.
        progress: Show the progress.
    """

    model_folder: Path
    inputs: tuple[Path, ...]
    output: Path
    folds: tuple[int | Literal["all"], ...] | None = None
    checkpoint: str = "checkpoint_final.pth"
    step_size: float = 0.5
    mirroring: bool = True
    device: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    results_on_device: bool = True
    tiles_per_batch: int | None = None
    keep_orientation: bool = False
    save_probabilities: bool = False
    continue_prediction: bool = False
    previous_stage: Path | None = None
    num_parts: int = 1
    part_id: int = 0
    num_readers: int = 3
    num_exporters: int = 3
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        Part(number=self.part_id, total=self.num_parts)  # complains if there is no such part
        forbidden = dict.fromkeys(self.inputs, "-i") | {self.model_folder: "the model's folder"}
        if self.previous_stage is not None:
            forbidden[self.previous_stage] = "-prev_stage_predictions"
        for folder, name in forbidden.items():
            if folder.resolve() == self.output.resolve():
                raise UsageError(
                    f"The output folder is the same as {name}.",
                    found=str(self.output),
                    expected="a folder of its own for the predictions; they would replace files, or mix with them",
                    remedy="choose another folder for -o",
                )

    @property
    def is_sequential(self) -> bool:
        """Whether cases are read, predicted and written one after another."""
        return self.num_readers == 0 and self.num_exporters == 0


def nnunet_arguments(request: PredictRequest) -> dict[str, Any]:
    """The content of ``predict_from_raw_data_args.json``."""
    inputs = [str(path) for path in request.inputs]
    arguments: dict[str, Any] = {
        "list_of_lists_or_source_folder": inputs[0] if len(inputs) == 1 else inputs,
        "output_folder_or_list_of_truncated_output_files": str(request.output),
        "save_probabilities": request.save_probabilities,
        "overwrite": not request.continue_prediction,
        "folder_with_segs_from_prev_stage": None if request.previous_stage is None else str(request.previous_stage),
    }
    if not request.is_sequential:
        arguments |= {
            "num_processes_preprocessing": request.num_readers,
            "num_processes_segmentation_export": request.num_exporters,
            "num_parts": request.num_parts,
            "part_id": request.part_id,
        }
    return arguments
