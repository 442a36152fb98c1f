"""What the documentation says about commands, files, values and links is so, and complete."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch
from shown import COMMANDS, DOCUMENTATION, PAGES, PROJECT, SHELL, blocks, commands_in, name_of

from nnunet_pt.core import settings
from nnunet_pt.training.history import LOGGING_KEYS as HISTORY_KEYS
from nnunet_pt.training.history import EpochFigures
from nnunet_pt.training.state import TrainingState

NNUNET_KEYS = (
    "network_weights",
    "optimizer_state",
    "grad_scaler_state",
    "logging",
    "_best_ema",
    "current_epoch",
    "init_args",
    "trainer_name",
    "inference_allowed_mirroring_axes",
)
LANGUAGES = {*SHELL, "python", "json", "toml", "text", ""}
LINK = re.compile(r"\]\(([^)\s]+)\)|<(?:img|source)[^>]* (?:src|srcset)=\"([^\"]+)\"")


def reference_page(name: str) -> str:
    return (DOCUMENTATION / "reference" / name).read_text(encoding="utf-8")


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_arguments_of_all_commands_shown_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page, *SHELL):
        for program, *arguments in commands_in(block.text):
            assert program in COMMANDS, f"{name_of(page)}, line {block.line} shows {program}"
            if arguments in (["--help"], ["-h"]):
                continue
            parser = importlib.import_module(COMMANDS[program]).build_parser()
            try:
                parser.parse_args(arguments)
            except SystemExit:
                problem = capsys.readouterr().err.splitlines()[-1]
                pytest.fail(f"{name_of(page)}, line {block.line}: {program} {' '.join(arguments)}\n{problem}")


@pytest.mark.parametrize("page", [PROJECT / "README.md", DOCUMENTATION / "reference" / "commands.md"], ids=name_of)
def test_every_command_is_mentioned(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)] == []


def test_every_command_is_shown_in_use() -> None:
    shown = {words[0] for page in PAGES for block in blocks(page, *SHELL) for words in commands_in(block.text)}
    assert [name for name in COMMANDS if name not in shown] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {name for name in re.findall(r"\bnnUNetv2_\w+", text) if not name.endswith("_")} <= {*COMMANDS}


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_of_a_kind_that_is_tested(page: Path) -> None:
    found = blocks(page)
    assert {block.language for block in found} <= LANGUAGES
    assert 2 * len(found) == len(re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert all(block.language in SHELL for block in found if block.not_run is not None)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json_shown_is_json(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block.text)


# ---------------------------------------------------------------- references that are made from the code


@pytest.mark.parametrize(
    ("page", "script"), [("commands.md", "make_command_reference"), ("trainers.md", "make_trainer_reference")]
)
def test_written_reference_is_up_to_date(page: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert reference_page(page) == load_script(script).reference(), f"run python scripts/{script}.py"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_every_value_of_a_checkpoint_is_explained() -> None:
    text = reference_page("checkpoints.md")
    network, optimizer = torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    checkpoint = TrainingState().capture(network, optimizer, init_args={}, trainer_name="x", mirroring_axes=None)
    names = {*HISTORY_KEYS, *checkpoint.extra, *checkpoint.extra["nnunet_pt"], *NNUNET_KEYS}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_value_of_the_progress_file_is_explained() -> None:
    section = re.split(r"^#+ ", reference_page("files.md").partition("### progress.jsonl")[2], flags=re.MULTILINE)[0]
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
    assert explained == {field.name for field in fields(EpochFigures)}


def test_every_environment_variable_is_explained() -> None:
    text = reference_page("environment.md")
    variables = set(re.findall(r'(?:env\.get\(|\(env, )"(\w+)"', inspect.getsource(settings)))
    assert {"nnUNet_extTrainer", "SLURM_PROCID", "MASTER_PORT", "LOCAL_RANK"} <= variables
    assert [name for name in sorted(variables) if f"`{name}`" not in text] == []


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{name_of(page)} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", t).lower().replace(" ", "-") for t in titles], target


def links(page: Path) -> list[str]:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [target for pair in LINK.findall(text) for target in pair if target and "://" not in target]


def test_every_page_is_in_the_overview() -> None:
    overview = DOCUMENTATION / "README.md"
    linked = {(overview.parent / target.partition("#")[0]).resolve() for target in links(overview)}
    assert [name_of(page) for page in PAGES if page.parent != PROJECT and page != overview and page not in linked] == []
