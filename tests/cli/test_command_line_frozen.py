"""The command line is a contract: names, types and defaults of arguments change only on purpose, and then here."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from nnunet_pt.cli._arguments import METHOD, OUTPUT, REQUIRED, RUNNING, SUBJECT, WRITTEN
from nnunet_pt.cli._commands import ORDER, command_modules

FROZEN = {
    "plan_and_preprocess": """
        -d dataset_reference+ required
        -fpe str = DatasetFingerprintExtractor
        --verify_dataset_integrity flag
        -npfp positive_integer
        --no_pp flag
        --clean flag
        -pl str = ExperimentPlanner
        -gpu_memory_target positive_float
        -preprocessor_name str = DefaultPreprocessor
        -overwrite_target_spacing positive_float+
        -overwrite_plans_name str
        -c str+ = ['2d', '3d_fullres', '3d_lowres']
        -np positive_integer+
        --max_ram_gb positive_float
        --continue_on_error flag
        --dask str
        --dask_slurm positive_integer
        -cluster Path
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "extract_fingerprint": """
        -d dataset_reference+ required
        -fpe str = DatasetFingerprintExtractor
        --verify_dataset_integrity flag
        -np positive_integer
        --clean flag
        -num_parts positive_integer = 1
        -part_id natural = 0
        --max_ram_gb positive_float
        --continue_on_error flag
        --dask str
        --dask_slurm positive_integer
        -cluster Path
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "plan_experiment": """
        -d dataset_reference+ required
        -pl str = ExperimentPlanner
        -gpu_memory_target positive_float
        -preprocessor_name str = DefaultPreprocessor
        -overwrite_target_spacing positive_float+
        -overwrite_plans_name str
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "preprocess": """
        -d dataset_reference+ required
        -plans_name,-p str = nnUNetPlans
        -c str+ = ['2d', '3d_fullres', '3d_lowres']
        -np positive_integer+
        --clean flag
        --verify flag
        -num_parts positive_integer = 1
        -part_id natural = 0
        --max_ram_gb positive_float
        --continue_on_error flag
        --dask str
        --dask_slurm positive_integer
        -cluster Path
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "train": """
        dataset dataset_reference required
        configuration str required
        fold fold required
        -tr str = nnUNetTrainer
        -p str = nnUNetPlans
        -pretrained_weights Path
        -num_gpus positive_integer = 1
        --npz flag
        --c flag
        --val flag
        --val_best flag
        --disable_checkpointing flag
        -device str
        --requeue flag
        -reset_optimizer,--reset_optimizer flag
        -transfer str
        -transfer_layers str+ = ()
        -transfer_heads str = auto
        --fix_token_axes flag
        --allow_little_transfer flag
        --keep_optimizer flag
        -freeze str+
        -freeze_epochs positive_integer
        -lr_factor _factor+
        -epochs positive_integer
        -lr positive_float
        -iterations positive_integer
        -warmup_epochs natural
        -patience positive_integer
        -seed natural
        --deterministic flag
        -precision str
        -augment_on str = cpu
        -save_every_minutes _minutes = 10.0
        -scratch _scratch
        --tensorboard flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "train_pretrained": """
        dataset dataset_reference?
        configuration str?
        fold fold?
        -d dataset_reference
        -c str
        -f fold
        -p str required
        -tr str = PretrainedTrainer
        --from_scratch flag
        -overwrite_ckpt_path Path
        -num_gpus positive_integer = 1
        --npz flag
        --c flag
        --val flag
        --val_best flag
        --disable_checkpointing flag
        -device str
        --requeue flag
        -reset_optimizer,--reset_optimizer flag
        -transfer str
        -transfer_layers str+ = ()
        -transfer_heads str = auto
        --fix_token_axes flag
        --allow_little_transfer flag
        -freeze str+
        -freeze_epochs positive_integer
        -lr_factor _factor+
        -epochs positive_integer
        -lr positive_float
        -iterations positive_integer
        -warmup_epochs natural
        -patience positive_integer
        -seed natural
        --deterministic flag
        -precision str
        -augment_on str = cpu
        -save_every_minutes _minutes = 10.0
        -scratch _scratch
        --tensorboard flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "predict": """
        -i Path+ required
        -o Path required
        -d dataset_reference required
        -p str = nnUNetPlans
        -tr str = nnUNetTrainer
        -c str required
        -f fold+ = [0, 1, 2, 3, 4]
        -step_size _share = 0.5
        --disable_tta flag
        --verbose flag
        --save_probabilities flag
        --continue_prediction flag
        -chk str = checkpoint_final.pth
        -prev_stage_predictions Path
        -npp natural
        -nps natural
        -num_parts positive_integer = 1
        -part_id natural = 0
        -device str
        --disable_progress_bar,--no_pbar flag
        --not_on_device flag
        -tiles_per_batch positive_integer
        -precision str = auto
        --keep_orientation flag
        --json_log flag
    """,
    "predict_from_modelfolder": """
        -i Path+ required
        -o Path required
        -m Path required
        -f fold+ = [0, 1, 2, 3, 4]
        -step_size _share = 0.5
        --disable_tta flag
        --verbose flag
        --save_probabilities flag
        --continue_prediction,--c flag
        -chk str = checkpoint_final.pth
        -prev_stage_predictions Path
        -npp natural = 3
        -nps natural = 3
        -device str
        --disable_progress_bar,--no_pbar flag
        --not_on_device flag
        -tiles_per_batch positive_integer
        -precision str = auto
        --keep_orientation flag
        --json_log flag
    """,
    "accumulate_crossval_results": """
        dataset_name_or_id dataset_reference required
        -c str required
        -o Path
        -f fold+ = [0, 1, 2, 3, 4]
        -p str = nnUNetPlans
        -tr str = nnUNetTrainer
        -np positive_integer
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "find_best_configuration": """
        dataset_name_or_id dataset_reference required
        -p str+ = ['nnUNetPlans']
        -c str+ = ['2d', '3d_fullres', '3d_lowres', '3d_cascade_fullres']
        -tr str+ = ['nnUNetTrainer']
        -np positive_integer
        -f fold+ = [0, 1, 2, 3, 4]
        --disable_ensembling flag
        --no_overwrite flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "ensemble": """
        -i Path+ required
        -o Path required
        -np positive_integer
        --save_npz flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "determine_postprocessing": """
        -i Path required
        -ref Path required
        -plans_json Path
        -dataset_json Path
        -np positive_integer
        --remove_postprocessed flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "apply_postprocessing": """
        -i Path required
        -o Path required
        -pp_pkl_file Path required
        -np positive_integer
        -plans_json Path
        -dataset_json Path
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "export_model_to_zip": """
        -d dataset_reference required
        -o Path required
        -c str+ = ['3d_lowres', '3d_fullres', '2d', '3d_cascade_fullres']
        -tr str+ = ['nnUNetTrainer']
        -p str+ = ['nnUNetPlans']
        -f fold+ = [0, 1, 2, 3, 4]
        -chk str+ = ['checkpoint_final.pth']
        --not_strict flag
        --exp_cv_preds flag
        --small flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "install_pretrained_model_from_zip": """
        zip Path required
        --sha256 sha256_digest
        --max_gb positive_float
        --force flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "download_pretrained_model_by_url": """
        url str required
        --sha256 sha256_digest
        --max_gb positive_float
        --force flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "evaluate_folder": """
        gt_folder Path required
        pred_folder Path required
        -djfile Path required
        -pfile Path required
        -o Path
        -np positive_integer
        -num_parts positive_integer = 1
        -part_id natural = 0
        --dask str
        --dask_slurm positive_integer
        -cluster Path
        --chill flag
        --surface flag
        -nsd_tolerance_mm positive_float+
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "evaluate_simple": """
        gt_folder Path required
        pred_folder Path required
        -l label_value+ required
        -il label_value
        -o Path
        -np positive_integer
        -num_parts positive_integer = 1
        -part_id natural = 0
        --dask str
        --dask_slurm positive_integer
        -cluster Path
        --chill flag
        --surface flag
        -nsd_tolerance_mm positive_float+
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "plot_overlay_pngs": """
        -d dataset_reference required
        -o Path required
        -np positive_integer
        -channel_idx _channel = 0
        --use_raw flag
        -p str = nnUNetPlans
        -c str
        -overlay_intensity positive_float = 0.6
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "move_plans_between_datasets": """
        -s _dataset_or_path required
        -t dataset_reference required
        -sp str
        -tp str
        --force flag
        --fit flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "convert_msd_dataset": """
        -i Path required
        -overwrite_id positive_integer
        -np positive_integer
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "convert_old_nnunet_dataset": """
        input_folder Path required
        output_dataset_name str required
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "preprocess_like_nnssl": """
        -d dataset_reference required
        -n,--pretraining_name str required
        -pc,--pretrained_checkpoint str required
        -am,--adaptation_mode str = default_nnunet
        -os,--override_spacing float+
        -norm str = zscore
        -np positive_integer
        --overwrite_pp flag
        --force flag
        --max_ram_gb positive_float
        --continue_on_error flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "inspect_weights": """
        checkpoint str required
        -d dataset_reference
        -c str = 3d_fullres
        -p str = nnUNetPlans
        -tr str = nnUNetTrainer
        -transfer str
        -transfer_layers str+
        -transfer_heads str = auto
        --fix_token_axes flag
        -o Path
        --json flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "finetune": """
        -d dataset_reference required
        -from str required
        -c str
        -f fold = 0
        -tr str
        -p str
        -n str
        -num_gpus positive_integer = 1
        --npz flag
        -device str
        -am str = like_pretrained
        -os float+
        -norm str = zscore
        -np positive_integer
        --max_ram_gb positive_float
        -transfer str
        -transfer_layers str+ = ()
        -transfer_heads str = auto
        --fix_token_axes flag
        --allow_little_transfer flag
        -freeze str+
        -freeze_epochs positive_integer
        -lr_factor _factor+
        -epochs positive_integer
        -lr positive_float
        -iterations positive_integer
        -warmup_epochs natural
        -patience positive_integer
        -seed natural
        --deterministic flag
        -precision str
        -augment_on str = cpu
        -save_every_minutes _minutes = 10.0
        -scratch _scratch
        --tensorboard flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "plan_like_dynamic": """
        -d dataset_reference required
        -n,--pretraining_name str required
        -pc,--pretrained_checkpoint str required
        -pl,--plans_identifier str = nnUNetPlans
        -np positive_integer
        --overwrite_pp flag
        --force flag
        --max_ram_gb positive_float
        --continue_on_error flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "doctor": """
        -d dataset_reference
        -c str+
        -p str = nnUNetPlans
        -tr str = nnUNetTrainer
        -device str
        -time_limit positive_float = 90.0
        --json flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "completion": """
        shell str required
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "slurm crossval": """
        -d dataset_reference required
        -c str+ required
        --out Path required
        -f fold+ = [0, 1, 2, 3, 4]
        -tr str = nnUNetTrainer
        -p str
        -pl str = ExperimentPlanner
        -gpu_memory_target positive_float
        --verify_dataset_integrity flag
        -train_args str
        -cluster Path
        -partition str
        -account str
        -gpus str
        -nodes positive_integer
        -cpus positive_integer
        -mem str
        -time str
        -parts positive_integer
        -modules str+
        -venv str
        --overwrite flag
        --submit flag
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "slurm pretrain_finetune": """
        -pretrain dataset_reference required
        -finetune dataset_reference required
        -c str+ required
        --out Path required
        -f fold+ = [0, 1, 2, 3, 4]
        -tr str = nnUNetTrainer
        -p str
        -pl str = ExperimentPlanner
        -gpu_memory_target positive_float
        --verify_dataset_integrity flag
        -train_args str
        -cluster Path
        -partition str
        -account str
        -gpus str
        -nodes positive_integer
        -cpus positive_integer
        -mem str
        -time str
        -parts positive_integer
        -modules str+
        -venv str
        --overwrite flag
        --submit flag
        --verbose flag
        --no_pbar flag
        --json_log flag
        -pretrain_tr str
        -pretrain_args str
    """,
    "slurm status": """
        folder Path required
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "report dataset": """
        dataset dataset_reference required
        -pictures natural = 12
        --all_pictures flag
        -channel natural = 0
        -o Path
        -np positive_integer
        --max_ram_gb positive_float
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "report plans": """
        plans str required
        -p str = nnUNetPlans
        -o Path
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "report training": """
        training str+ required
        -tr str = nnUNetTrainer
        -p str = nnUNetPlans
        -o Path
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
    "report compare": """
        folders Path+ required
        -names str+
        -o Path
        --verbose flag
        --no_pbar flag
        --json_log flag
    """,
}

COMMANDS = {
    "nnUNetv2_plan_and_preprocess": "plan_and_preprocess",
    "nnUNetv2_extract_fingerprint": "extract_fingerprint",
    "nnUNetv2_plan_experiment": "plan_experiment",
    "nnUNetv2_preprocess": "preprocess",
    "nnUNetv2_train": "train",
    "nnUNetv2_train_pretrained": "train_pretrained",
    "nnUNetv2_preprocess_like_nnssl": "preprocess_like_nnssl",
    "nnUNetv2_plan_like_dynamic": "plan_like_dynamic",
    "nnUNetv2_inspect_weights": "inspect_weights",
    "nnUNetv2_finetune": "finetune",
    "nnUNetv2_predict": "predict",
    "nnUNetv2_predict_from_modelfolder": "predict_from_modelfolder",
    "nnUNetv2_accumulate_crossval_results": "accumulate_crossval_results",
    "nnUNetv2_find_best_configuration": "find_best_configuration",
    "nnUNetv2_ensemble": "ensemble",
    "nnUNetv2_determine_postprocessing": "determine_postprocessing",
    "nnUNetv2_apply_postprocessing": "apply_postprocessing",
    "nnUNetv2_export_model_to_zip": "export_model_to_zip",
    "nnUNetv2_install_pretrained_model_from_zip": "install_pretrained_model_from_zip",
    "nnUNetv2_download_pretrained_model_by_url": "download_pretrained_model_by_url",
    "nnUNetv2_evaluate_folder": "evaluate_folder",
    "nnUNetv2_evaluate_simple": "evaluate_simple",
    "nnUNetv2_plot_overlay_pngs": "plot_overlay_pngs",
    "nnUNetv2_move_plans_between_datasets": "move_plans_between_datasets",
    "nnUNetv2_convert_MSD_dataset": "convert_msd_dataset",
    "nnUNetv2_convert_old_nnUNet_dataset": "convert_old_nnunet_dataset",
    "nnUNetv2_doctor": "doctor",
    "nnUNetv2_report": "report",
    "nnUNetv2_slurm": "slurm",
    "nnUNetv2_completion": "completion",
}


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a module, or of one of the commands within it."""
    module, *within = command.split()
    parser = importlib.import_module(f"nnunet_pt.cli.{module}").build_parser()
    for name in within:
        parser = branches_of(parser)[name]
    return parser


def branches_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def every_parser() -> list[argparse.ArgumentParser]:
    parsers = [parser_of(module) for module in COMMANDS.values()]
    return [leaf for parser in parsers for leaf in (branches_of(parser).values() or [parser])]


def line_of(action: argparse.Action) -> str:
    words = [",".join(action.option_strings) or action.dest]
    if isinstance(action, argparse._StoreTrueAction):
        return f"{words[0]} flag"
    kind = action.type.__name__ if callable(action.type) else "str"
    words.append(kind + (action.nargs if isinstance(action.nargs, str) else ""))
    if action.required:
        words.append("required")
    if action.default is not None:
        words.append(f"= {action.default}")
    return " ".join(words)


@pytest.mark.parametrize("module", FROZEN)
def test_arguments_are_those_of_the_table(module: str) -> None:
    actions = [a for a in parser_of(module)._actions if not isinstance(a, argparse._HelpAction)]
    assert [line_of(a) for a in actions] == [line.strip() for line in FROZEN[module].strip().splitlines()]


CHOICES = {
    "-device": ("cuda", "cpu", "mps"),
    "-precision": ("auto", "fp32", "bf16", "fp16"),
    "-augment_on": ("cpu", "gpu"),
    "-transfer": ("strict", "match", "adapt"),
    "-transfer_heads": ("auto", "none"),
    "-am": ("default_nnunet", "fixed", "like_pretrained", "no_resample"),
    "-norm": ("zscore", "default_nnunet"),
}


def test_values_to_choose_from_are_those_of_the_table() -> None:
    actions = [a for parser in every_parser() for a in parser._actions]
    assert {a.option_strings[0]: tuple(a.choices) for a in actions if a.choices and a.option_strings} == CHOICES


def test_commands_are_those_of_the_table() -> None:
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    scripts = dict(re.findall(r'^(nnUNetv2_\w+) = "(nnunet_pt\.cli\.\w+:main)"$', project, re.MULTILINE))
    assert scripts == {name: f"nnunet_pt.cli.{module}:main" for name, module in COMMANDS.items()}
    assert sorted(command_modules()) == sorted(ORDER) == sorted(COMMANDS.values())


@pytest.mark.parametrize("parser", every_parser(), ids=lambda parser: parser.prog)
def test_help_is_grouped_explains_every_argument_and_gives_examples_that_parse(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(action.help for action in parser._actions)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "\033" not in text
    assert max(len(line) for line in text.splitlines()) <= 110
    assert text.startswith(f"usage: {parser.prog} ")
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings[-2:] == [OUTPUT, "examples"]
    assert not {"options", "positional arguments"} & set(headings)
    shared = [title for title in (REQUIRED, SUBJECT, METHOD, WRITTEN, RUNNING, OUTPUT) if title in headings]
    assert shared == [title for title in headings if title in shared]
    examples = [line.split() for line in text.partition("examples:\n")[2].splitlines()]
    assert examples
    for words in examples:
        program, arguments = " ".join(words[: len(parser.prog.split())]), words[len(parser.prog.split()) :]
        assert program == parser.prog
        parser.parse_args(arguments)


@pytest.mark.parametrize("parser", every_parser(), ids=lambda parser: parser.prog)
def test_every_command_has_the_options_for_messages(parser: argparse.ArgumentParser) -> None:
    flags = {name for a in parser._actions if isinstance(a, argparse._StoreTrueAction) for name in a.option_strings}
    assert {"--verbose", "--no_pbar", "--json_log"} <= flags


@pytest.mark.parametrize("parser", every_parser(), ids=lambda parser: parser.prog)
def test_help_says_what_happens_without_an_option(parser: argparse.ArgumentParser) -> None:
    """Flags are off, and required ones must be there; whatever else takes a value says its default."""
    optional = [a for a in parser._actions if a.option_strings and a.nargs != 0 and not a.required]
    silent = [
        a.option_strings[0]
        for a in optional
        if not re.search(r"default|another way to give|needs|required if", a.help or "")
    ]
    assert silent == []


def test_program_name_is_that_of_the_entry_point() -> None:
    assert {name: parser_of(module).prog for name, module in COMMANDS.items()} == {name: name for name in COMMANDS}


@pytest.mark.parametrize("module", [m for m in COMMANDS.values() if branches_of(parser_of(m))])
def test_help_of_a_command_with_others_within_gives_examples_that_parse(module: str) -> None:
    parser = parser_of(module)
    for line in parser.format_help().partition("examples:\n")[2].splitlines():
        program, *arguments = line.split()
        assert program == parser.prog
        parser.parse_args(arguments)
