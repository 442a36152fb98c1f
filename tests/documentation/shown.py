"""What the documentation shows: its pages, their blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTATION = PROJECT / "documentation"
PAGES = sorted([PROJECT / "README.md", *DOCUMENTATION.rglob("*.md")])
SHELL = ("bash", "sh")
COMMANDS: dict[str, str] = dict(
    re.findall(r'^(nnUNetv2_\w+) = "(nnunet_pt\.[\w.]+):main"$', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
)
_BLOCK = re.compile(r"^( *)```(\w*)(?: +(\S.*?))? *\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_OPTIONAL = {"$SLURM_ARRAY_TASK_ID": "0", "$fold": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of code of a page.

    Attributes:
        language: The word after the three backticks; "" for a block of plain text.
        file: The last name in the line before it, for a block that is the content of a file.
        not_run: Why it is not run (``bash not-run: two GPUs``); None for a block that is.
    """

    page: Path
    line: int
    language: str
    file: str
    not_run: str | None
    text: str


def name_of(page: Path) -> str:
    """A page as its readers call it."""
    return page.relative_to(PROJECT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page, of all languages or of some."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        indent, language, info, content = match.groups()
        if languages and language not in languages:
            continue
        marker, colon, reason = (info or "").partition(":")
        line = text.count("\n", 0, match.start()) + 1
        if info and (marker != "not-run" or not colon or not reason.strip()):
            raise ValueError(f"{name_of(page)}, line {line}: {info!r} is not 'not-run: REASON'")
        content = re.sub(f"^{indent}", "", content, flags=re.MULTILINE)
        names = re.findall(r"`([^`]+)`", text[: match.start()].rstrip().rpartition("\n")[2])
        found.append(
            Block(
                page=page,
                line=line,
                language=language,
                file=names[-1] if names else "",
                not_run=reason.strip() if info else None,
                text=content,
            )
        )
    return found


def commands_in(script: str) -> Iterator[list[str]]:
    """Each use of one of our commands, as words; also of those in the arguments of ``sbatch --wrap``."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line.replace("$(nnUNetv2_", "nnUNetv2_"), comments=True)
        for part in (words, *(shlex.split(w) for w in words if "nnUNetv2_" in w and " " in w)):
            for start in (i for i, word in enumerate(part) if re.fullmatch(r"nnUNetv2_\w+", word)):
                if start and part[start - 1] in ("command", "which", "man"):
                    continue
                ends = ("||", "&&", ";", "|", ">", "&", "done")
                end = next((i for i in range(start, len(part)) if part[i] in ends), len(part))
                yield [_OPTIONAL.get(word.rstrip(";"), word.rstrip(";")) for word in part[start:end]]
