"""The completion script for bash (version 3.2 and later): tables from the parsers, and a function that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nnunet_pt.cli._completion import CONFIGURATIONS, WORDS, Command, Value

_HEAD = r"""# Completion for the commands of nnunet_pt in bash. Load it:  eval "$(nnUNetv2_completion bash)"

_nnUNetv2_names() {  # folder names of the datasets in nnUNet_raw and nnUNet_preprocessed
    local root folder
    for root in "${nnUNet_raw-}" "${nnUNet_preprocessed-}"; do
        [[ -n $root ]] || continue
        for folder in "$root"/Dataset[0-9]*_*/; do
            folder=${folder%/}
            [[ -d $folder ]] && printf '%s\n' "${folder##*/}"
        done
    done
}

_nnUNetv2_number() {  # Dataset004_Hippocampus -> 4
    local digits=${1#Dataset}
    digits=${digits%%_*}
    [[ $digits =~ ^[0-9]+$ ]] && printf '%s\n' "$((10#$digits))"
}

_nnUNetv2_datasets() {  # numbers and names, or only what fits the word so far
    local name
    _nnUNetv2_names | sort -u | while read -r name; do
        [[ $current == D* ]] || _nnUNetv2_number "$name"
        [[ $current == [0-9]* ]] || printf '%s\n' "$name"
    done
}

_nnUNetv2_plans_files() {  # of the dataset that was given, else of all
    local wanted=${dataset:-*} name file
    [[ $wanted =~ ^[0-9]+$ ]] && wanted=Dataset$(printf %03d "$((10#$wanted))")_\*
    [[ -n ${nnUNet_preprocessed-} ]] || return
    for file in "$nnUNet_preprocessed"/$wanted/*.json; do
        name=${file##*/}
        case $name in dataset.json | dataset_fingerprint.json | splits_*.json | integrity_report.json) continue ;; esac
        [[ -f $file ]] && printf '%s\n' "$file"
    done
}

_nnUNetv2_plans() {
    local file
    _nnUNetv2_plans_files | while read -r file; do
        file=${file##*/}
        printf '%s\n' "${file%.json}"
    done
}

_nnUNetv2_configurations() {  # the usual ones, and those of the plans of the dataset that was given
    local file
    printf '%s\n' @configurations@
    [[ -n $dataset ]] || return
    _nnUNetv2_plans_files | while read -r file; do
        sed -n '/^    "configurations": {/,/^    }/s/^        "\([^"]*\)": {.*/\1/p' "$file"
    done
}

_nnUNetv2_fitting() {  # adds to COMPREPLY which lines fit the word so far; compgen -W would execute $(...) in them
    local word quoted
    while IFS= read -r word; do
        [[ -n $word ]] || continue
        printf -v quoted %q "$word"
        [[ $word == "$current"* || $quoted == "$current"* ]] && COMPREPLY+=("$quoted")
    done
}

_nnUNetv2_values() {  # fills COMPREPLY with values of a kind
    local kind=${1%+} words='' IFS=$'\n'
    case $kind in
    words:*) words=${kind#words:}; words=${words//,/$'\n'} ;;
    dataset) words=$(_nnUNetv2_datasets) ;;
    configuration) words=$(_nnUNetv2_configurations | sort -u) ;;
    plans) words=$(_nnUNetv2_plans | sort -u) ;;
    fold) words=$'0\n1\n2\n3\n4\nall' ;;
    trainer) words='@trainers@' ;;
    planner) words='@planners@' ;;
    file) compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -f -- "$current")); return ;;
    folder) compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -d -- "$current")); return ;;
    esac
    _nnUNetv2_fitting <<< "$words"
    [[ $kind == trainer ]] && COMPREPLY+=($(compgen -f -X '!*.py' -- "$current"))
}

_nnUNetv2() {
    local current=${COMP_WORDS[COMP_CWORD]} command=${1##*/} dataset='' wanted='' position=0 subcommand=''
    local i word entry options values positionals
    COMPREPLY=()
    _nnUNetv2_table "$command" || return
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == -* ]]; then
            wanted=''
            for entry in $values; do
                [[ $entry == "$word="* ]] && wanted=${entry#*=}
            done
        elif [[ -n $wanted ]]; then
            [[ $wanted == dataset* ]] && dataset=$word
            [[ $wanted == *+ ]] || wanted=''
        elif [[ -z $subcommand && $positionals == subcommand:* ]]; then
            subcommand=$word
            _nnUNetv2_table "$command $word" || return
        else
            entry=($positionals)
            entry=${entry[position]-}
            [[ $entry == dataset ]] && dataset=$word
            [[ $entry == *+ ]] || position=$((position + 1))
        fi
    done
    if [[ $current != -* && -z $wanted ]]; then
        entry=($positionals)
        wanted=${entry[position]-}
        [[ $wanted == subcommand:* ]] && wanted=words:${wanted#subcommand:}
    fi
    if [[ $current == -* || -z $wanted ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    else
        _nnUNetv2_values "$wanted"
    fi
}
"""


def bash_script(commands: Sequence[Command], trainers: Iterable[str], planners: Iterable[str]) -> str:
    """The script.

    Args:
        commands: The commands.
        trainers: Names for ``-tr``.
        planners: Names for ``-pl``.
    """
    head = _HEAD.replace("@configurations@", " ".join(CONFIGURATIONS))
    head = head.replace("@trainers@", "\n".join(trainers)).replace("@planners@", "\n".join(planners))
    cases = [_case(command.name, command) for command in commands]
    cases += [_case(f"{command.name} {part.name}", part) for command in commands for part in command.within]
    names = " ".join(command.name for command in commands)
    table = "\n".join(["_nnUNetv2_table() {", "    case $1 in", *cases, "    *) return 1 ;;", "    esac", "}"])
    return f"{head}\n{table}\n\ncomplete -F _nnUNetv2 {names}\n"


def _case(name: str, command: Command) -> str:
    options = " ".join(name for option in command.options for name in option.names)
    values = " ".join(f"{n}={_entry(o.value)}" for o in command.options if o.value is not None for n in o.names)
    positionals = " ".join(map(_entry, command.positionals))
    if command.within:
        positionals = f"subcommand:{','.join(part.name for part in command.within)}"
    lines = [f"    {name!r})", f"        options='{options}'", f"        values='{values}'"]
    return "\n".join([*lines, f"        positionals='{positionals}' ;;"])


def _entry(value: Value) -> str:
    kind = f"{WORDS}:{','.join(value.words)}" if value.kind == WORDS else value.kind
    return f"{kind}+" if value.many else kind
