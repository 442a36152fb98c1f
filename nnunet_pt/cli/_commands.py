"""Which commands there are, in the order in which people meet them."""

from __future__ import annotations

import importlib
import pkgutil
from argparse import ArgumentParser

import nnunet_pt.cli

ORDER = (
    "doctor",
    "plan_and_preprocess",
    "extract_fingerprint",
    "plan_experiment",
    "preprocess",
    "train",
    "finetune",
    "train_pretrained",
    "preprocess_like_nnssl",
    "plan_like_dynamic",
    "inspect_weights",
    "move_plans_between_datasets",
    "predict",
    "predict_from_modelfolder",
    "evaluate_folder",
    "evaluate_simple",
    "accumulate_crossval_results",
    "find_best_configuration",
    "ensemble",
    "determine_postprocessing",
    "apply_postprocessing",
    "slurm",
    "report",
    "plot_overlay_pngs",
    "export_model_to_zip",
    "install_pretrained_model_from_zip",
    "download_pretrained_model_by_url",
    "convert_msd_dataset",
    "convert_old_nnunet_dataset",
    "completion",
)


def command_modules() -> list[str]:
    """Names of the modules of all commands; one that is not in the list above comes last."""
    found = {m.name for m in pkgutil.iter_modules(nnunet_pt.cli.__path__) if not m.name.startswith("_")}
    return [*(name for name in ORDER if name in found), *sorted(found.difference(ORDER))]


def all_parsers() -> list[ArgumentParser]:
    """The parsers of all commands."""
    return [importlib.import_module(f"nnunet_pt.cli.{name}").build_parser() for name in command_modules()]
