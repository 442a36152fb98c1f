"""Models that nnU-Net 2.8.1 trained predict the same here, in float32 on the CPU.

The recorded models are in CONFORMANCE_GOLDEN, the images in CONFORMANCE_DATA; what is there is listed; without them the
tests are skipped.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from nnunet_pt.dataset.cases import cases_in_folder
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference.export import export_prediction
from nnunet_pt.inference.sliding_window import SlidingWindow, gaussian_importance, sliding_window_steps
from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.plans import Configuration, Plans
from nnunet_pt.preprocessing.case import CaseSettings, preprocess_arrays, read_case
from nnunet_pt.transfer.checkpoint import read_checkpoint

SHARED = Path(__file__).parents[4] / "shared"
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "models"
DATA = Path(os.environ.get("CONFORMANCE_DATA", SHARED / "data"))

# Below this sum of weights nnU-Net's float16 has hardly any digits left, and its logits are rounded to fractions of 1
FEW_DIGITS = 1e-5


@dataclass
class Model:
    network: nn.Module
    plans: Plans
    configuration: Configuration
    description: DatasetDescription
    labels: Labels
    mirror_axes: tuple[int, ...]

    def window(self, mirror_axes: tuple[int, ...]) -> SlidingWindow:
        return SlidingWindow(
            self.network,
            patch_size=self.configuration.patch_size,
            num_outputs=self.labels.num_segmentation_heads,
            device=torch.device("cpu"),
            mirror_axes=mirror_axes,
        )


def load_model(gold: Path) -> Model:
    job = json.loads((gold / "job.json").read_text())
    checkpoint = read_checkpoint(gold / "model" / f"fold_{job['folds'][0]}" / job["checkpoint"])
    plans = Plans.load(gold / "model" / "plans.json")
    description = DatasetDescription.load(gold / "model" / "dataset.json")
    configuration = plans.configuration(checkpoint.init_args["configuration"])
    labels = Labels.from_description(description)
    network = build_network(
        configuration.architecture,
        input_channels=len(description.channel_names),
        num_outputs=labels.num_segmentation_heads,
        deep_supervision=False,
        initialise=False,
    )
    network.load_state_dict(checkpoint.network_weights)
    return Model(network, plans, configuration, description, labels, checkpoint.mirroring_axes or ())


def or_skip(found: list[Any]) -> list[Any]:
    reason = f"there are no recorded models in {GOLDEN} (CONFORMANCE_GOLDEN)"
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def models(pattern: str) -> list[Any]:
    return or_skip([pytest.param(p.parent, id=p.parent.name) for p in sorted(GOLDEN.glob(pattern))])


@pytest.mark.parametrize("gold", models("*/logits_no_mirroring.npz"))
def test_recorded_logits(gold: Path) -> None:
    with np.load(gold / "logits_no_mirroring.npz") as recorded:
        image, expected = recorded["preprocessed"], recorded["logits"]
    model = load_model(gold)
    made = model.window(()).predict_logits(image).numpy()
    assert (made.argmax(0) == expected.argmax(0)).mean() >= 0.999
    weight = sum_of_weights(image.shape[1:], model.configuration.patch_size)
    error = np.abs(made - expected)[:, weight > FEW_DIGITS]
    assert error.size > 0.9 * made.size
    assert error.max() <= 1e-3 * np.ptp(expected)


def sum_of_weights(shape: tuple[int, ...], patch: tuple[int, ...]) -> np.ndarray:
    """Of all tiles at each voxel, as they are without being normalised."""
    padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    total, importance = np.zeros(padded), gaussian_importance(patch)
    x, y, z = sliding_window_steps(padded, patch, 0.5)
    for start in np.stack(np.meshgrid(x, y, z), -1).reshape(-1, 3):
        total[tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))] += importance
    first = [(p - n) // 2 for n, p in zip(shape, padded, strict=True)]
    return total[tuple(slice(f, f + n) for f, n in zip(first, shape, strict=True))]


@pytest.mark.slow
@pytest.mark.parametrize("gold", models("*/job.json"))
def test_recorded_segmentations(gold: Path, tmp_path: Path) -> None:
    """The first recorded case, from image to image."""
    job, model = json.loads((gold / "job.json").read_text()), load_model(gold)
    images = DATA / job["dataset"] / "imagesTs"
    if not images.is_dir():
        pytest.skip(f"there is no {images} (CONFORMANCE_DATA)")
    ending, channels = model.description.file_ending, model.description.channel_names
    recorded = {p.name.removesuffix(ending) for p in (gold / "predictions").iterdir()}
    case = next(c for c in cases_in_folder(images, ending, len(channels)) if c.identifier in recorded)
    settings = CaseSettings.of(model.plans, model.configuration.name, model.labels, channels)
    image, _, properties = read_case(case, model.plans.image_reader_writer, model.labels)
    image, _, properties = preprocess_arrays(image, None, properties, settings)
    export_prediction(
        model.window(model.mirror_axes).predict_logits(image).numpy(),
        properties,
        plans=model.plans,
        configuration=model.configuration,
        labels=model.labels,
        reader_writer=reader_writer_by_name(model.plans.image_reader_writer),
        output=tmp_path / case.identifier,
        file_ending=ending,
    )
    name = f"{case.identifier}{ending}"
    made, expected = (sitk.ReadImage(str(folder / name)) for folder in (tmp_path, gold / "predictions"))
    assert made.GetPixelID() == expected.GetPixelID()
    assert made.GetDirection() == expected.GetDirection()
    np.testing.assert_allclose(made.GetSpacing(), expected.GetSpacing())
    np.testing.assert_allclose(made.GetOrigin(), expected.GetOrigin(), atol=1e-3)
    equal = (sitk.GetArrayFromImage(made) == sitk.GetArrayFromImage(expected)).mean()
    assert equal >= job["equal_voxels"]
