"""``transfer_report.json`` and ``transfer_report.html``: the account of a transfer, for programs and for people."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from nnunet_pt.core.files import write_json, write_text
from nnunet_pt.core.wording import counted
from nnunet_pt.transfer.account import ACTIONS, Action, StageShare, TensorTransfer, TransferPlan, percent

JSON_FILE: Final = "transfer_report.json"
HTML_FILE: Final = "transfer_report.html"

_MEANING: Final[dict[Action, str]] = {
    "copied": "bit by bit from the file",
    "adapted": "from the file, changed or in part",
    "skipped": "in the file but not used; keeps its initial values",
    "initial": "not in the file; keeps its initial values",
}
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1a2230; --soft: #5b6675; --line: #dde2e9; --page: #fff; --track: #eceff3;
  --copied: #2f7d5b; --adapted: #c98a1b; --skipped: #a3485a; --initial: #8d97a5; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #9aa5b4; --line: #323a46; --page: #14181f;
  --track: #252c36; --copied: #58b98c; --adapted: #e0ad4a; --skipped: #d77c8d; --initial: #7a8695; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 2rem auto;
  max-width: 74rem; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p, ul { margin: .25rem 0; } code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
.soft { color: var(--soft); } .scroll { overflow-x: auto; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1rem; min-width: 9rem; flex: 1; }
.tile b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: .85rem; white-space: nowrap; }
td:first-child code, td.action { white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: flex; width: 9rem; height: .7rem; margin-top: .4rem; border-radius: .35rem; overflow: hidden;
  background: var(--track); }
.bar i { display: block; } .key { display: inline-block; width: .75rem; height: .75rem; border-radius: .2rem;
  margin-right: .4rem; }
.copied { background: var(--copied); } .adapted { background: var(--adapted); } .skipped { background: var(--skipped); }
.initial { background: var(--initial); }
summary { cursor: pointer; margin: .5rem 0; }
"""


def write_report(plan: TransferPlan, folder: Path) -> tuple[Path, Path]:
    """Write both files.

    Args:
        plan: The account.
        folder: Where they go.

    Returns:
        Their paths.

    Raises:
        StorageError: If they cannot be written.
    """
    data, page = folder / JSON_FILE, folder / HTML_FILE
    write_json(data, plan.to_json())
    write_text(page, html_page(plan))
    return data, page


def html_page(plan: TransferPlan) -> str:
    """The account as one page that needs nothing else: no scripts, no other files."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Transfer from {escape(plan.path.name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>What came from <code>{escape(plan.path.name)}</code></h1>\n"
        f'<p class="soft"><code>{escape(str(plan.path))}</code><br>{escape(plan.kind)} file, policy '
        f"<b>{escape(plan.policy)}</b>, SHA-256 <code>{escape(plan.sha256)}</code></p>\n"
        f"{_tiles(plan)}\n{f'<ul>{notes}</ul>' if notes else ''}\n{_legend()}\n"
        f"<h2>By stage</h2>\n{_stages(plan)}\n{_tensors(plan)}\n{_unused(plan)}\n</body>\n</html>\n"
    )


def _tiles(plan: TransferPlan) -> str:
    shares = [(part.stage, part.share, part.parameters) for part in plan.parts()]
    shares.insert(0, ("whole network", plan.share(), sum(t.parameters for t in plan.tensors)))
    tiles = "".join(
        f'<div class="tile"><span class="soft">{escape(name)}</span><b>{percent(share)}</b>'
        f'<span class="soft">of {parameters:,} parameters</span></div>'
        for name, share, parameters in shares
    )
    return f'<div class="tiles">{tiles}</div>'


def _legend() -> str:
    items = (f'<span class="key {action}"></span><b>{action}</b>: {_MEANING[action]}' for action in ACTIONS)
    return "<p>" + "<br>".join(items) + "</p>"


def _stages(plan: TransferPlan) -> str:
    heads = "".join(f'<th class="number">{action}</th>' for action in ACTIONS)
    rows = "".join(_stage_row(stage, plan) for stage in plan.stages())
    return (
        f'<div class="scroll"><table><thead><tr><th>stage</th><th>parameters by action</th>{heads}'
        '<th class="number">parameters</th><th class="number">from the file</th><th>notes</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _stage_row(stage: StageShare, plan: TransferPlan) -> str:
    members = [t for t in plan.tensors if t.stage == stage.stage and t.part == stage.part]
    counts = "".join(f'<td class="number">{stage.tensors[action] or ""}</td>' for action in ACTIONS)
    notes = "<br>".join(escape(note) for note in stage.notes)
    return (
        f"<tr><td><code>{escape(stage.stage)}</code></td><td>{_bar(members)}</td>{counts}"
        f'<td class="number">{stage.parameters:,}</td><td class="number">{percent(stage.share)}</td>'
        f'<td class="soft">{notes}</td></tr>'
    )


def _bar(members: list[TensorTransfer]) -> str:
    """Parameters by action; of an adapted tensor only what really comes from the file."""
    total = sum(t.parameters for t in members) or 1
    amounts: dict[Action, int] = dict.fromkeys(ACTIONS, 0)
    for t in members:
        amounts[t.action] += t.transferred if t.transferred else t.parameters
        amounts["initial"] += t.parameters - t.transferred if t.transferred else 0
    title = ", ".join(f"{action} {percent(n / total)}" for action, n in amounts.items() if n)
    pieces = "".join(
        f'<i class="{action}" style="width:{100 * n / total:.2f}%"></i>' for action, n in amounts.items() if n
    )
    return f'<div class="bar" title="{escape(title)}" role="img" aria-label="{escape(title)}">{pieces}</div>'


def _tensors(plan: TransferPlan) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(t.target)}</code></td>"
        f'<td class="action"><span class="key {t.action}"></span>{t.action}</td>'
        f'<td class="number">{_shape(t.target_shape)}</td><td class="number">{_shape(t.source_shape)}</td>'
        f"<td><code>{escape(t.source if t.source not in (None, t.target) else '')}</code> "
        f'<span class="soft">{escape(t.how)}</span></td></tr>'
        for t in plan.tensors
    )
    return (
        f"<h2>Every tensor</h2>\n<details><summary>{counted(len(plan.tensors), 'tensor')}</summary>"
        '<div class="scroll"><table><thead><tr><th>tensor</th><th>action</th><th class="number">shape</th>'
        f'<th class="number">in the file</th><th>from, and how</th></tr></thead><tbody>{rows}</tbody></table></div>'
        "</details>"
    )


def _unused(plan: TransferPlan) -> str:
    if not plan.unused:
        return ""
    names = "".join(f"<li><code>{escape(name)}</code></li>" for name in plan.unused)
    return (
        "<h2>In the file, without a place in this network</h2>\n"
        f"<details><summary>{counted(len(plan.unused), 'tensor')}</summary><ul>{names}</ul></details>"
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return ""
    return "&#8239;&times;&#8239;".join(map(str, shape)) or "1"
