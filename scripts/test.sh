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
# Several tests compute at the same time; threads that wait actively take the CPUs from each other
export OMP_WAIT_POLICY=passive
. scripts/environment.sh
prepare_environment dev || exit 1

passed=0
failed=0
failures=()
log=$(mktemp)
agreement_log=$(mktemp)
trap 'kill $agreement 2> /dev/null; rm -f "$log" "$agreement_log"' EXIT

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

# log: adds the numbers of its last line like "12 passed, 3 failed, 1 error"
count() {
    local line
    line=$(grep -E '[0-9]+ (passed|failed|errors?)' "$1" | tail -n 1)
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

# Beside the tests, since neither alone keeps both cores of a small machine busy.
results=${CONFORMANCE:-../shared}
agreement=
if [ -f "$results/tools/conformance.py" ]; then
    # shellcheck disable=SC2086
    python "$results/tools/conformance.py" ${CONFORMANCE_SECTIONS:-resampling networks losses schedules augmentation datasets plans predict selection} \
        > "$agreement_log" 2>&1 &
    agreement=$!
fi

echo
echo "tests (pytest${agreement:+; agreement with nnU-Net is compared meanwhile})"
selection=(-m "not slow")
case " $* " in *" -m "*) selection=() ;; esac
# loadgroup: tests that share what is expensive to make say so, and run in one process
python -m pytest -q -n 2 --dist loadgroup "${selection[@]}" "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
count "$log"
if [ "$status" -ne 0 ]; then
    failures+=("tests")
    [ "$(number failed "$(tail -n 1 "$log")")$(number 'errors?' "$(tail -n 1 "$log")")" = 00 ] && failed=$((failed + 1))
fi

echo
if [ -n "$agreement" ]; then
    echo "agreement with nnU-Net (recorded results in $results)"
    if wait "$agreement"; then
        tail -n 1 "$agreement_log"
    else
        failures+=("agreement with nnU-Net")
        grep -vE '^ok ' "$agreement_log"
    fi
    agreement=
    count "$agreement_log"
    if ! grep -qE '[0-9]+ passed' "$agreement_log"; then failed=$((failed + 1)); fi
else
    echo "agreement with nnU-Net                      skipped: no recorded results in $results"
fi

echo
for name in "${failures[@]}"; do echo "failed: $name"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "${#failures[@]}" -eq 0 ]
