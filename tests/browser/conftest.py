"""Pages in headless Chromium, driven by a script that is put into a copy of the page: nothing has to be installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--enable-logging=stderr", "--log-level=0", "--virtual-time-budget=5000",
)  # fmt: skip
TIMEOUT_S = 120

# The answer is written into the page, because the page as it is at the end is what --dump-dom prints
ASKING = """
<pre id="answer"></pre><script>window.addEventListener("load", () => {
  const answer = () => { %s };
  document.getElementById("answer").textContent = JSON.stringify(answer());
});</script></body>
"""

Ask = Callable[..., Mapping[str, Any]]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"there is no Chromium (looked for {', '.join(NAMES)}); Debian has it in the package chromium")


@pytest.fixture
def run_chromium(chromium: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that opens a file with further options."""

    def run(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [chromium, *OPTIONS, f"--user-data-dir={profile}", *options, path.as_uri()]
            return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

    return run


@pytest.fixture
def ask(tmp_path: Path, run_chromium: Callable[..., subprocess.CompletedProcess[str]]) -> Ask:
    """A function that opens a page, runs the body of a script in it and gives back the object that it returns.

    It fails if the page writes anything to the browser's console.
    """

    def ask(html: str, script: str, *, width: int = 1400, dark: bool = False) -> Mapping[str, Any]:
        page = tmp_path / "page.html"
        page.write_text(html.replace("</body>", ASKING % script), encoding="utf-8")
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        done = run_chromium(page, "--dump-dom", f"--window-size={width},1000", scheme)
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert not complaints, complaints
        answer = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
        assert answer is not None and answer[1], f"no answer; Chromium says:\n{done.stderr[-2000:]}"
        return json.loads(unescape(answer[1]))  # type: ignore[no-any-return]

    return ask
