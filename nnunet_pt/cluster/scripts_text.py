"""The text of the scripts that are the same for all workflows; ``@name@`` is replaced when they are written."""

from __future__ import annotations

COMMON, CHECK, SUBMIT = "job.sh", "check_folders.sh", "submit.sh"
SUBMITTED = "submitted.txt"
LOGS, STATES = "logs", "states"
MARKER = ".nnunet_slurm"
STEP_SCRIPTS = "[0-9][0-9]_*.sh"

COMMON_TEXT = r"""# shellcheck shell=bash
# What all these jobs have in common; every script beside this one reads it first.
# They are: @title@.
set -eo pipefail

# ---- software
@software@

# ---- folders, which all nodes must share
@folders@

# ---- what follows needs no change
set -u
job=${SLURM_JOB_ID:-none}
log=${SLURM_ARRAY_JOB_ID:-$job}
task=$log${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}  # of an array's last task, $job alone would mean the whole array
node=${SLURMD_NODENAME:-$(hostname)}
state=@states@/${SLURM_JOB_NAME:-$(basename "$0" .sh)}${SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}
near_limit=""
trap 'near_limit=yes' USR1

# What "nnUNetv2_slurm status" reads: how far this task is
note() {
    echo "$1 $job $log $node $(date +%Y-%m-%dT%H:%M:%S) ${2:-}" > "$state.new"
    mv -f "$state.new" "$state"
}
at_exit() {
    local status=$?
    if [ "$status" -eq 0 ]; then note "done"; else note failed "exit status $status"; fi
}
mkdir -p @states@
note running
trap at_exit EXIT

# Run a command. When the time limit comes near, it is told to save and end, and this job is queued again
run() {
    local status=0
    if [ -n "$near_limit" ]; then queue_again; fi
    echo "\$ $*"
    "$@" &
    command=$!
    told=$1
    trap 'near_limit=yes; save_and_end' USR1
    trap save_and_end TERM
    while kill -0 "$command" 2> /dev/null; do wait "$command" || true; done  # a signal ends this wait, too
    wait "$command" || status=$?
    trap 'near_limit=yes' USR1
    trap - TERM
    if [ "$status" -eq 0 ]; then return; fi
    if [ -n "$near_limit" ]; then queue_again; fi
    exit "$status"
}
save_and_end() {  # at TERM, srun would kill what it has started; SLURM can tell it to all but srun and this script
    if [ "$told" = srun ]; then scancel --signal=TERM "$task"; else kill -s TERM "$command"; fi 2> /dev/null || true
}
queue_again() {
    if [ "${SLURM_RESTART_COUNT:-0}" -ge 100 ]; then
        echo "Error: this job was queued again 100 times. Ask for a longer --time, then submit it again." >&2
        exit 1
    fi
    note requeued
    if ! scontrol requeue "$task"; then
        echo "Error: SLURM does not queue this job again. What is done is saved: submit it again to go on." >&2
        exit 1
    fi
    trap - EXIT
    exit 0
}

# Of the folder of a fold
finished() { [ -f "$1/checkpoint_final.pth" ] && [ -f "$1/validation/summary.json" ]; }
has_checkpoint() {
    [ -f "$1/checkpoint_final.pth" ] || [ -f "$1/checkpoint_latest.pth" ] || [ -f "$1/checkpoint_best.pth" ]
}

echo "== $(date '+%Y-%m-%d %H:%M:%S'), job $job on $node, start $((${SLURM_RESTART_COUNT:-0} + 1))"
bash ./@check@
"""

CHECK_TEXT = r"""#!/bin/bash
# Does this node see the same folders as the machine on which these scripts were written?
set -u
: "${nnUNet_raw:?} ${nnUNet_preprocessed:?} ${nnUNet_results:?}"  # job.sh says where they are
node=${SLURMD_NODENAME:-$(hostname)}
status=0
complain() {
    printf '%s\n' "Error: node $node $1" "  found:    $2" "  to do:    $3" >&2
    status=1
}

# nnUNetv2_slurm has left these marks
check_mark() {
    if [ "$(cat "$1/@marker@" 2> /dev/null)" != "$2" ]; then
        complain "does not see the folder $1 that these scripts were written for." \
            "no file @marker@ in it, or one of another folder" \
            "choose a folder that all nodes share (not /tmp, not a local disk), and correct job.sh"
    fi
}
check_data() {
    if [ ! -f "$nnUNet_raw/$1/dataset.json" ]; then
        complain "does not see the data of $1." "no file $nnUNet_raw/$1/dataset.json" \
            "if other nodes do, tell the administrators, and leave this one out: --exclude=$node"
    fi
}
@checks@
exit "$status"
"""

SUBMIT_TEXT = r"""#!/bin/bash
# Submits these jobs: @title@.
# Each waits for those it needs. After a failure run this again: what is finished is not done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
folder=$(pwd -P)

queue=$(squeue --noheader --me --format=%Z)  # all of it: grep would end at the first line found, and squeue with it
if grep -qxF "$folder" <<< "$queue"; then
    echo "Error: jobs of this folder are in the queue already." >&2
    echo "  to do:    wait for them, or cancel them: scancel $(cut -d' ' -f2 @submitted@ | paste -sd ' ')" >&2
    exit 1
fi
mkdir -p @logs@ @states@
: > @submitted@

# submit SCRIPT JOB...: it starts when all these jobs have succeeded; if one of them fails, it is removed
submit() {
    local script=$1 after=""
    shift
    if [ $# -gt 0 ]; then after="--dependency=afterok$(printf ':%s' "$@")"; fi
    if ! job=$(sbatch --parsable ${after:+"$after"} --kill-on-invalid-dep=yes "$script" 2> @logs@/refused.txt); then
        echo "Error: SLURM refuses $script: $(cat @logs@/refused.txt)" >&2
        if [ -s @submitted@ ]; then cut -d' ' -f2 @submitted@ | xargs scancel; fi  # all or none
        exit 1
    fi
    job=${job##*$'\n'}  # without what the cluster may say before
    job=${job%%;*}
    echo "$script $job $*" >> @submitted@
    echo "job $job  $script"
}

@steps@
"""


def filled(text: str, **values: str) -> str:
    """A text with its values."""
    names = {"check": CHECK, "submitted": SUBMITTED, "logs": LOGS, "states": STATES, "marker": MARKER}
    for name, value in {**names, **values}.items():
        text = text.replace(f"@{name}@", value)
    return text
