"""nnunet_pt: self-configuring medical image segmentation, file-compatible with nnU-Net v2.

Training from Python::

    from nnunet_pt import nnunet_training

    result = nnunet_training(4, "3d_fullres", fold=0)  # prepares the dataset, trains and validates

Prediction from Python::

    from nnunet_pt import Predictor

    predictor = Predictor.from_folder(result["model_path"])
    prediction = predictor.predict_array(image_cxyz, {"spacing": (1.0, 1.0, 1.0)})

``nnUNetPredictor`` takes the place of nnU-Net's class of that name. Behind every command is a function of this
package, which takes what the command's arguments say as a request: see :data:`COMMANDS`. Nothing is imported before it
is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nnunet_pt.api.options import TrainingOptions
    from nnunet_pt.api.results import TrainingFailure, TrainingMetrics, TrainingOutcome, TrainingSuccess
    from nnunet_pt.api.training import nnunet_training
    from nnunet_pt.cluster.jobs import workflow_of
    from nnunet_pt.cluster.scripts import write_scripts
    from nnunet_pt.cluster.settings import load_cluster_settings
    from nnunet_pt.cluster.status import status_of
    from nnunet_pt.cluster.workflow import WorkflowRequest
    from nnunet_pt.core.console import setup_console
    from nnunet_pt.core.errors import NnunetError, TrainingStopped
    from nnunet_pt.core.settings import Settings, Workspace
    from nnunet_pt.dataset.convert import convert_msd_dataset, convert_old_nnunet_dataset
    from nnunet_pt.doctor.diagnosis import DoctorRequest, diagnose
    from nnunet_pt.evaluation.best_configuration import SelectionRequest, find_best_configuration
    from nnunet_pt.evaluation.crossval_request import CrossvalRequest, accumulate_crossval
    from nnunet_pt.evaluation.ensemble import ensemble_folders
    from nnunet_pt.evaluation.postprocessing_requests import (
        FindPostprocessingRequest,
        PostprocessRequest,
        find_postprocessing,
        postprocess_folder,
    )
    from nnunet_pt.evaluation.requests import EvaluateRequest, dataset_settings, evaluate, label_settings
    from nnunet_pt.inference.nnunet_predictor import nnUNetPredictor
    from nnunet_pt.inference.prediction import PredictRequest, model_folder_of, predict_folder
    from nnunet_pt.inference.predictor import CaseResult, InputCase, Prediction, PredictionOptions, Predictor
    from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest, extract_fingerprint
    from nnunet_pt.planning.move_plans import MovePlansRequest, move_plans
    from nnunet_pt.planning.plan_and_preprocess import PlanAndPreprocessRequest, plan_and_preprocess
    from nnunet_pt.planning.planner import PlanRequest, plan_experiment
    from nnunet_pt.preprocessing.pipeline import PreprocessRequest, preprocess_dataset
    from nnunet_pt.report.comparison_page import comparison_report
    from nnunet_pt.report.dataset_content import DatasetReportOptions
    from nnunet_pt.report.dataset_page import dataset_report
    from nnunet_pt.report.overlays import OverlayRequest, plot_overlays
    from nnunet_pt.report.places import write_report
    from nnunet_pt.report.plans_page import plans_report
    from nnunet_pt.report.training_page import training_report
    from nnunet_pt.sharing.download import DownloadRequest, download_and_install
    from nnunet_pt.sharing.export_model import ExportRequest, export_model
    from nnunet_pt.sharing.install_model import InstallRequest, install_model
    from nnunet_pt.training.finetune import FinetuneRequest, finetune
    from nnunet_pt.training.finetune_source import plans_in, weights_file
    from nnunet_pt.training.recipe import TrainingRecipe
    from nnunet_pt.training.request import TrainRequest
    from nnunet_pt.training.run import train
    from nnunet_pt.training.trainer import Trainer
    from nnunet_pt.transfer.inspection import TargetRequest, inspect_weights
    from nnunet_pt.transfer.nnssl_plans import (
        LikeDynamicRequest,
        LikeNnsslRequest,
        plan_like_dynamic,
        preprocess_like_nnssl,
    )

__version__ = "0.1.0"
__all__ = [
    "COMMANDS",
    "CaseResult",
    "CrossvalRequest",
    "DatasetReportOptions",
    "DoctorRequest",
    "DownloadRequest",
    "EvaluateRequest",
    "ExportRequest",
    "FindPostprocessingRequest",
    "FinetuneRequest",
    "FingerprintRequest",
    "InputCase",
    "InstallRequest",
    "LikeDynamicRequest",
    "LikeNnsslRequest",
    "MovePlansRequest",
    "NnunetError",
    "OverlayRequest",
    "PlanAndPreprocessRequest",
    "PlanRequest",
    "PostprocessRequest",
    "PredictRequest",
    "Prediction",
    "PredictionOptions",
    "Predictor",
    "PreprocessRequest",
    "SelectionRequest",
    "Settings",
    "TargetRequest",
    "TrainRequest",
    "Trainer",
    "TrainingFailure",
    "TrainingMetrics",
    "TrainingOptions",
    "TrainingOutcome",
    "TrainingRecipe",
    "TrainingStopped",
    "TrainingSuccess",
    "WorkflowRequest",
    "Workspace",
    "accumulate_crossval",
    "comparison_report",
    "convert_msd_dataset",
    "convert_old_nnunet_dataset",
    "dataset_report",
    "dataset_settings",
    "diagnose",
    "download_and_install",
    "ensemble_folders",
    "evaluate",
    "export_model",
    "extract_fingerprint",
    "find_best_configuration",
    "find_postprocessing",
    "finetune",
    "inspect_weights",
    "install_model",
    "label_settings",
    "load_cluster_settings",
    "model_folder_of",
    "move_plans",
    "nnUNetPredictor",
    "nnunet_training",
    "plan_and_preprocess",
    "plan_experiment",
    "plan_like_dynamic",
    "plans_in",
    "plans_report",
    "plot_overlays",
    "postprocess_folder",
    "predict_folder",
    "preprocess_dataset",
    "preprocess_like_nnssl",
    "setup_console",
    "status_of",
    "train",
    "training_report",
    "weights_file",
    "workflow_of",
    "write_report",
    "write_scripts",
]

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "nnUNetv2_plan_and_preprocess": ("plan_and_preprocess",),
    "nnUNetv2_extract_fingerprint": ("extract_fingerprint",),
    "nnUNetv2_plan_experiment": ("plan_experiment",),
    "nnUNetv2_preprocess": ("preprocess_dataset",),
    "nnUNetv2_train": ("train",),
    "nnUNetv2_preprocess_like_nnssl": ("preprocess_like_nnssl",),
    "nnUNetv2_plan_like_dynamic": ("plan_like_dynamic",),
    "nnUNetv2_train_pretrained": ("train",),
    "nnUNetv2_inspect_weights": ("inspect_weights",),
    "nnUNetv2_finetune": ("finetune",),
    "nnUNetv2_predict": ("predict_folder",),
    "nnUNetv2_predict_from_modelfolder": ("predict_folder",),
    "nnUNetv2_evaluate_folder": ("evaluate",),
    "nnUNetv2_evaluate_simple": ("evaluate",),
    "nnUNetv2_accumulate_crossval_results": ("accumulate_crossval",),
    "nnUNetv2_find_best_configuration": ("find_best_configuration",),
    "nnUNetv2_ensemble": ("ensemble_folders",),
    "nnUNetv2_determine_postprocessing": ("find_postprocessing",),
    "nnUNetv2_apply_postprocessing": ("postprocess_folder",),
    "nnUNetv2_report": ("dataset_report", "plans_report", "training_report", "comparison_report"),
    "nnUNetv2_plot_overlay_pngs": ("plot_overlays",),
    "nnUNetv2_export_model_to_zip": ("export_model",),
    "nnUNetv2_install_pretrained_model_from_zip": ("install_model",),
    "nnUNetv2_download_pretrained_model_by_url": ("download_and_install",),
    "nnUNetv2_move_plans_between_datasets": ("move_plans",),
    "nnUNetv2_convert_MSD_dataset": ("convert_msd_dataset",),
    "nnUNetv2_convert_old_nnUNet_dataset": ("convert_old_nnunet_dataset",),
    "nnUNetv2_doctor": ("diagnose",),
    "nnUNetv2_slurm": ("load_cluster_settings", "workflow_of", "write_scripts", "status_of"),
}
"""Command -> names of the functions of this package that do its work: one, or one for each of its subcommands."""

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "api.options": ("TrainingOptions",),
    "api.results": ("TrainingFailure", "TrainingMetrics", "TrainingOutcome", "TrainingSuccess"),
    "api.training": ("nnunet_training",),
    "cluster.jobs": ("workflow_of",),
    "cluster.scripts": ("write_scripts",),
    "cluster.settings": ("load_cluster_settings",),
    "cluster.status": ("status_of",),
    "cluster.workflow": ("WorkflowRequest",),
    "core.console": ("setup_console",),
    "core.errors": ("NnunetError", "TrainingStopped"),
    "core.settings": ("Settings", "Workspace"),
    "dataset.convert": ("convert_msd_dataset", "convert_old_nnunet_dataset"),
    "doctor.diagnosis": ("DoctorRequest", "diagnose"),
    "evaluation.best_configuration": ("SelectionRequest", "find_best_configuration"),
    "evaluation.crossval_request": ("CrossvalRequest", "accumulate_crossval"),
    "evaluation.ensemble": ("ensemble_folders",),
    "evaluation.postprocessing_requests": (
        "FindPostprocessingRequest",
        "PostprocessRequest",
        "find_postprocessing",
        "postprocess_folder",
    ),
    "evaluation.requests": ("EvaluateRequest", "dataset_settings", "evaluate", "label_settings"),
    "inference.nnunet_predictor": ("nnUNetPredictor",),
    "inference.prediction": ("PredictRequest", "model_folder_of", "predict_folder"),
    "inference.predictor": ("CaseResult", "InputCase", "Prediction", "PredictionOptions", "Predictor"),
    "planning.fingerprint_extractor": ("FingerprintRequest", "extract_fingerprint"),
    "planning.move_plans": ("MovePlansRequest", "move_plans"),
    "planning.plan_and_preprocess": ("PlanAndPreprocessRequest", "plan_and_preprocess"),
    "planning.planner": ("PlanRequest", "plan_experiment"),
    "preprocessing.pipeline": ("PreprocessRequest", "preprocess_dataset"),
    "report.comparison_page": ("comparison_report",),
    "report.dataset_content": ("DatasetReportOptions",),
    "report.dataset_page": ("dataset_report",),
    "report.overlays": ("OverlayRequest", "plot_overlays"),
    "report.places": ("write_report",),
    "report.plans_page": ("plans_report",),
    "report.training_page": ("training_report",),
    "sharing.download": ("DownloadRequest", "download_and_install"),
    "sharing.export_model": ("ExportRequest", "export_model"),
    "sharing.install_model": ("InstallRequest", "install_model"),
    "training.finetune": ("FinetuneRequest", "finetune"),
    "training.finetune_source": ("plans_in", "weights_file"),
    "training.recipe": ("TrainingRecipe",),
    "training.request": ("TrainRequest",),
    "training.run": ("train",),
    "training.trainer": ("Trainer",),
    "transfer.inspection": ("TargetRequest", "inspect_weights"),
    "transfer.nnssl_plans": ("LikeDynamicRequest", "LikeNnsslRequest", "plan_like_dynamic", "preprocess_like_nnssl"),
}
_MODULES: Final = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and torch with it, when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"nnunet_pt.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
