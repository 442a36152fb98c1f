"""A case check whose process is killed; the test of the integrity check has its workers run it."""

from __future__ import annotations

import os
import signal

from nnunet_pt.dataset.case_check import CaseCheck, CaseResult, check_case


def killed_on_case_01(check: CaseCheck) -> CaseResult:
    if check.case.identifier == "case_01":
        os.kill(os.getpid(), signal.SIGKILL)
    return check_case(check)
