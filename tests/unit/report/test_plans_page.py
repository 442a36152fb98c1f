from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import PlansError
from nnunet_pt.networks.build import build_network
from nnunet_pt.networks.memory import feature_map_size
from nnunet_pt.plans.plans import Architecture, Plans
from nnunet_pt.report.plans_drawings import patch_drawing, unet_drawing
from nnunet_pt.report.plans_networks import network_stages
from nnunet_pt.report.plans_page import plans_report


def unet(axes: int, *, residual: bool, stages: int = 4) -> dict[str, Any]:
    """An architecture whose last stage keeps the first axis."""
    strides = [[1] * axes, *[[2] * axes] * (stages - 2), [1] + [2] * (axes - 1)]
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [4, 6, 8, 8][:stages],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[1] + [3] * (axes - 1), *[[3] * axes] * (stages - 1)],
            "strides": strides,
            ("n_blocks_per_stage" if residual else "n_conv_per_stage"): [1, 3, 2, 2][:stages],
            "n_conv_per_stage_decoder": [2, 1, 1][: stages - 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


@pytest.fixture
def planned(small: Any) -> Any:
    """A dataset whose two configurations have networks of four stages."""
    for name, axes in (("2d", 2), ("3d_fullres", 3)):
        entry = small.plans["configurations"][name]
        entry["architecture"] = unet(axes, residual=False)
        entry["patch_size"] = [16] * axes
    small.plan()
    return small


def report(dataset: Any, name: str = "nnUNetPlans") -> str:
    return plans_report(dataset.preprocessed / f"{name}.json")


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("axes", [2, 3])
def test_stages_add_up_to_the_size_that_planning_counts(planned: Any, residual: bool, axes: int) -> None:
    name = {2: "2d", 3: "3d_fullres"}[axes]
    planned.plans["configurations"][name]["architecture"] = unet(axes, residual=residual)
    configuration = Plans.from_json({**planned.plans, "plans_name": "p"}, "p").configuration(name)
    stages = network_stages(configuration)
    head = 5 * 16**axes
    assert sum(s.values for s in stages) + head == feature_map_size(configuration.architecture, [16] * axes, 5)
    assert [s.part for s in stages] == ["encoder"] * 3 + ["bottleneck"] + ["decoder"] * 3
    assert [s.level for s in stages] == [0, 1, 2, 3, 2, 1, 0]
    assert stages[3].size == (4,) + (2,) * (axes - 1)
    assert stages[4].stride == (1,) + (2,) * (axes - 1)
    assert stages[0].kernel == stages[-1].kernel == (1,) + (3,) * (axes - 1)


def test_the_page_says_what_the_plans_say(planned: Any) -> None:
    html = report(planned)
    assert re.findall(r"<section id=\"([^\"]+)\">", html) == ["overview", "2d", "3d-fullres", "normalisation"]
    assert html.count('aria-label="U-Net with 4 stages: 1 channel (MR), 3 outputs"') == 2
    for words in (
        "ExperimentPlanner",
        "Simple<wbr>ITKIO",
        "ZScoreNormalization (within the nonzero region)",
        "2 patches",
    ):
        assert words in html
    assert "The patch (orange, 20.8" in html  # 16 voxels of 1.3 mm


def test_parameters_are_counted_as_the_network_has_them(planned: Any) -> None:
    configuration = Plans.load(planned.preprocessed / "nnUNetPlans.json").configuration("3d_fullres")
    network = build_network(configuration.architecture, input_channels=1, num_outputs=3, deep_supervision=True)
    expected = sum(weight.numel() for weight in network.parameters())
    deep = sum(w.numel() for n, w in network.named_parameters() if "seg_layers" in n)
    shown = {int(n.replace(",", "")) for n in re.findall(r"<dt>Parameters</dt><dd>([\d,]+)</dd>", report(planned))}
    assert any(expected - deep < number <= expected for number in shown)


def test_without_a_description_outputs_are_assumed(planned: Any) -> None:
    (planned.preprocessed / "dataset.json").unlink()
    html = report(planned)
    assert "2 outputs are assumed" in html
    assert "channel 0" in html


def test_a_damaged_configuration_does_not_hide_the_others(planned: Any) -> None:
    del planned.plans["configurations"]["2d"]["patch_size"]
    planned.plan()
    html = report(planned)
    assert "The configuration 2d cannot be used" in html
    assert 'id="3d-fullres"' in html


def test_a_network_that_does_not_fit_its_patch_is_said(planned: Any) -> None:
    planned.plans["configurations"]["2d"]["patch_size"] = [17, 16]
    planned.plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "some.package.OwnNet"
    planned.plan()
    html = report(planned)
    assert "does not divide the patch size" in html
    assert "OwnNet" in html
    assert "There is no network class called" in html


def test_a_cascade_has_more_input_channels(planned: Any) -> None:
    planned.plans["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
    }
    planned.plan()
    html = report(planned)
    assert "3 channels (MR)" in html
    assert "It gets what 3d_lowres predicts" in html


def test_a_transformer_is_described_by_its_arguments(planned: Any) -> None:
    entry = planned.plans["configurations"]["3d_fullres"]
    entry["architecture"] = {
        "network_class_name": "Primus",
        "arch_kwargs": {"embed_dim": 72, "eva_depth": 1, "eva_numheads": 2, "patch_embed_size": [8, 8, 8]},
        "_kw_requires_import": [],
    }
    planned.plan()
    html = report(planned)
    assert "embed_dim" in html
    assert "argument of the network" in html
    assert html.count('aria-label="U-Net') == 1


def test_a_pretraining_is_shown(planned: Any) -> None:
    planned.plans["pretrain_info"] = {
        "checkpoint_path": "/data/weights.pth",
        "checkpoint_name": "MAE <1>",
        "key_to_encoder": "encoder.stages",
        "keys_to_in_proj": ["encoder.stem"],
        "pt_num_in_channels": 1,
        "pt_used_patchsize": [160, 160, 160],
        "citations": [{"type": "Pre-Training", "name": "MAE", "apa_citations": ["Somebody (2025)"]}],
    }
    planned.plan()
    html = report(planned)
    for words in ("MAE &lt;1&gt;", "/data/weights.pth", "encoder.stem", "Somebody (2025)", 'id="pre-training"'):
        assert words in html


def test_axes_on_which_cases_keep_their_spacing(planned: Any) -> None:
    planned.plans["configurations"]["3d_fullres"]["spacing"] = [None, 1.0, 1.0]
    planned.plan()
    html = report(planned)
    assert re.search(r"<dt>Spacing \(mm\)</dt><dd>own\W+1\W+1</dd>", html)


def test_missing_and_wrong_plans_are_refused(planned: Any) -> None:
    with pytest.raises(PlansError, match="no plans file"):
        report(planned, "otherPlans")
    (planned.preprocessed / "bad.json").write_text(json.dumps({"plans_name": "bad"}))
    with pytest.raises(PlansError, match="dataset_name"):
        report(planned, "bad")


def test_patch_and_image_are_drawn_to_scale() -> None:
    html = patch_drawing((10, 20), (20, 40))
    widths = [float(w) for w in re.findall(r"h(\d+\.\d)v", html)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    solid = patch_drawing((10, 20, 40), (10, 20, 40))
    assert solid.count("<path") == 8


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_boxes_do_not_overlap_however_many_stages_there_are(stages: int) -> None:
    from nnunet_pt.networks.unet import UNetDescription
    from nnunet_pt.plans.reading import Findings, ObjectReader
    from nnunet_pt.report.plans_drawings import unet_stages

    entry = unet(3, residual=True, stages=stages)
    reader = ObjectReader(entry["arch_kwargs"], Findings("network", "x"))
    description = UNetDescription.read(reader, blocks_key="n_blocks_per_stage")
    drawing = unet_drawing(
        unet_stages(description, (32, 32, 32), residual=True), residual=True, input_text="1 channel", output_text="<3>"
    )
    assert "&lt;3&gt;" in drawing
    boxes = [
        [float(v) for v in box]
        for box in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawing)
    ]
    assert len(boxes) == 2 * stages - 1
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[index + 1 :]:
            apart_x = x + width <= other_x or other_x + other_width <= x
            assert apart_x or y + height <= other_y or other_y + other_height <= y


def test_networks_known_by_name_alone_are_drawn(planned: Any) -> None:
    planned.plans["configurations"]["3d_fullres"]["architecture"] = {
        "network_class_name": "ResEncL",
        "arch_kwargs": {},
        "_kw_requires_import": [],
    }
    planned.plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]
    planned.plan()
    assert "U-Net with 6 stages" in report(planned)
    assert Architecture(network_class_name="ResEncL", arch_kwargs={}, requires_import=()).short_name == "ResEncL"


def test_plans_of_a_trained_model(small: Any, tiny_model_folder: Any) -> None:
    folder: Path = tiny_model_folder(small)
    assert "U-Net with 2 stages" in plans_report(folder / "plans.json")
