"""nnunet_pt: self-configuring medical image segmentation, file-compatible with nnU-Net v2.

Prediction from Python::

    from nnunet_pt import PredictionOptions, Predictor

    predictor = Predictor.from_folder("nnUNet_results/Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres")
    prediction = predictor.predict_array(image_cxyz, {"spacing": (1.0, 1.0, 1.0)})

``nnUNetPredictor`` takes the place of nnU-Net's class of that name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_pt.inference.nnunet_predictor import nnUNetPredictor
    from nnunet_pt.inference.predictor import CaseResult, InputCase, Prediction, PredictionOptions, Predictor

__version__ = "0.1.0"
__all__ = ["CaseResult", "InputCase", "Prediction", "PredictionOptions", "Predictor", "nnUNetPredictor"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and torch with it, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "nnunet_predictor" if name == "nnUNetPredictor" else "predictor"
    return getattr(importlib.import_module(f"nnunet_pt.inference.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
