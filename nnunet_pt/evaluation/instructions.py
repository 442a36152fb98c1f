"""The commands to run after a model or ensemble was chosen, as nnU-Net prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from nnunet_pt.evaluation.crossval import PLANS_FILE, ModelName

_DEFAULT_PROCESSES = 8


def inference_instructions(
    dataset: str,
    models: Sequence[tuple[ModelName, str | None]],
    folds: Sequence[int],
    postprocessing_file: Path,
    *,
    num_processes: int | None = None,
) -> str:
    """The text of ``inference_instructions.txt``.

    nnU-Net means to print the commands of a cascade's first stage, too, but never does; here they are there.

    Args:
        dataset: Name of the dataset.
        models: The chosen model or the members of the ensemble, each with the configuration of its previous stage.
        folds: The folds to predict with.
        postprocessing_file: ``postprocessing.pkl``; ``plans.json`` lies beside it.
        num_processes: Number of processes in the commands.
    """
    processes = f"-np {num_processes or _DEFAULT_PROCESSES}"
    lines = ["***Run inference like this:***", ""]
    if len(models) > 1:
        lines += ["An ensemble won! Run the following commands to run predictions with the ensemble members:", ""]
    outputs = [f"OUTPUT_FOLDER_MODEL_{i}" for i in range(1, len(models) + 1)] if len(models) > 1 else ["OUTPUT_FOLDER"]
    members = list(zip(models, outputs, strict=True))
    first_stages = {model: output for (model, _), output in members}  # several may build on the same one
    # Members that others build on come before those
    for (model, previous), output in sorted(members, key=lambda member: _first_stage(*member[0]) in first_stages):
        stage = ""
        first = _first_stage(model, previous)
        if first is not None:
            if first not in first_stages:
                others = len(first_stages) - len(models)
                first_stages[first] = f"OUTPUT_FOLDER_PREV_STAGE{f'_{others + 1}' if others else ''}"
                lines.append(_predict(dataset, first, folds, first_stages[first]))
            stage = f" -prev_stage_predictions {first_stages[first]}"
        probabilities = " --save_probabilities" if len(models) > 1 else ""
        lines.append(_predict(dataset, model, folds, output) + stage + probabilities)
    if len(models) > 1:
        ensemble = f"nnUNetv2_ensemble -i {' '.join(outputs)} -o OUTPUT_FOLDER {processes}"
        lines += ["", "Then run ensembling with:", "", ensemble]
    plans = postprocessing_file.parent / PLANS_FILE
    lines += [
        "",
        "***Once inference is completed, run postprocessing like this:***",
        "",
        "nnUNetv2_apply_postprocessing -i OUTPUT_FOLDER -o OUTPUT_FOLDER_PP "
        f"-pp_pkl_file {quote(str(postprocessing_file))} {processes} -plans_json {quote(str(plans))}",
    ]
    return "\n".join(lines)


def _first_stage(model: ModelName, previous: str | None) -> ModelName | None:
    return None if previous is None else replace(model, configuration=previous)


def _predict(dataset: str, model: ModelName, folds: Sequence[int], output: str) -> str:
    return (
        f"nnUNetv2_predict -d {dataset} -i INPUT_FOLDER -o {output} -f {' '.join(map(str, folds))} "
        f"-tr {model.trainer} -c {model.configuration} -p {model.plans}"
    )
