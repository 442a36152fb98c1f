#!/usr/bin/env bash
# All checks of the project: style, types, architecture, tests, and agreement with recorded nnU-Net results.
#
#   scripts/test.sh              everything but the slow tests
#   scripts/test.sh -m slow      arguments go to pytest
#
# Tests of the reports need Chromium or Chrome, tests of jobs a SLURM with two nodes (scripts/slurm_local.sh); without
# them they are skipped and say so.
# CONFORMANCE=folder names the folder with the recorded results (default: ../shared); without it that part is skipped.
# CONFORMANCE_SECTIONS="plans" chooses among its sections.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
. scripts/environment.sh
prepare_environment dev || exit 1

passed=0
failed=0
failures=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# name and command: one line if all is well, the command's output if not
check() {
    local name=$1 start=$SECONDS
    shift
    printf '%-44s' "$name"
    if "$@" > "$log" 2>&1; then
        echo "ok    ($((SECONDS - start)) s)"
        passed=$((passed + 1))
    else
        echo "FAILED"
        cat "$log"
        failed=$((failed + 1))
        failures+=("$name")
    fi
}

# adds the numbers of lines like "12 passed, 3 failed, 1 error" in the log
count() {
    local line
    line=$(grep -E '[0-9]+ (passed|failed|errors?)' "$log" | tail -n 1)
    passed=$((passed + $(number passed "$line")))
    failed=$((failed + $(number failed "$line") + $(number 'errors?' "$line")))
}

number() {
    local found
    found=$(grep -oE "[0-9]+ $1" <<< "$2" | head -n 1 | cut -d' ' -f1)
    echo "${found:-0}"
}

check "style (ruff check)" ruff check .
check "format (ruff format)" ruff format --check .
check "types (mypy)" mypy
check "architecture (import-linter)" lint-imports

results=${CONFORMANCE:-../shared}
if [ -f "$results/tools/conformance.py" ]; then
    echo
    echo "agreement with nnU-Net (recorded results in $results; takes some minutes)"
    # shellcheck disable=SC2086
    if ! python "$results/tools/conformance.py" ${CONFORMANCE_SECTIONS:-resampling networks losses schedules augmentation datasets plans predict selection} > "$log" 2>&1; then
        failures+=("agreement with nnU-Net")
        grep -vE '^ok ' "$log"
    else
        tail -n 1 "$log"
    fi
    count
    if ! grep -qE '[0-9]+ passed' "$log"; then failed=$((failed + 1)); fi
else
    echo "agreement with nnU-Net                      skipped: no recorded results in $results"
fi

echo
echo "tests (pytest)"
selection=(-m "not slow")
case " $* " in *" -m "*) selection=() ;; esac
# loadgroup: tests that share what is expensive to make say so, and run in one process
python -m pytest -q -n 2 --dist loadgroup "${selection[@]}" "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
count
if [ "$status" -ne 0 ]; then
    failures+=("tests")
    [ "$(number failed "$(tail -n 1 "$log")")$(number 'errors?' "$(tail -n 1 "$log")")" = 00 ] && failed=$((failed + 1))
fi

echo
for name in "${failures[@]}"; do echo "failed: $name"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "${#failures[@]}" -eq 0 ]
