"""The completion script for zsh: a specification for ``_arguments`` for each command, with what the help says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nnunet_pt.cli._completion import CONFIGURATIONS, FILE, FOLDER, NOTHING, WORDS, Command, Option, Value

_HEAD = r"""# Completion for the commands of nnunet_pt in zsh. Load it:  eval "$(nnUNetv2_completion zsh)"

(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }

_nnUNetv2_dataset() {
    local -aU names
    local -a numbers
    local name
    [[ -n ${nnUNet_raw-} ]] && names+=($nnUNet_raw/Dataset<->_*(N/:t))
    [[ -n ${nnUNet_preprocessed-} ]] && names+=($nnUNet_preprocessed/Dataset<->_*(N/:t))
    for name in $names; do
        numbers+=("$((10#${${name#Dataset}%%_*})):$name")
    done
    _alternative 'numbers:number of a dataset:((${numbers:q}))' 'names:name of a dataset:($names)'
}

_nnUNetv2_plans_files() {  # sets reply: of the dataset that was given, else of all
    local wanted=${${opt_args[-d]:-${opt_args[-s]:-$line[1]}}%%:*}
    [[ $wanted == <-> ]] && wanted=Dataset${(l:3::0:)wanted}_
    [[ $wanted == Dataset* ]] || wanted=Dataset
    reply=()
    [[ -n ${nnUNet_preprocessed-} ]] || return
    reply=($nnUNet_preprocessed/$wanted*/*.json(N))
    reply=(${reply:#*/(dataset|dataset_fingerprint|splits_*|integrity_report).json})
}

_nnUNetv2_plans() {
    local -a reply
    local -aU names
    _nnUNetv2_plans_files
    names=(${reply:t:r})
    _wanted plans expl 'name of plans' compadd -a names
}

_nnUNetv2_configuration() {
    local -a reply
    local -aU names
    names=(@configurations@)
    _nnUNetv2_plans_files
    (( $#reply && $#reply < 20 )) &&
        names+=($(sed -n '/^    "configurations": {/,/^    }/s/^        "\([^"]*\)": {.*/\1/p' $reply))
    _wanted configurations expl 'configuration' compadd -a names
}

_nnUNetv2_trainer() {
    _alternative 'trainers:trainer:(@trainers@)' 'files:file of your own:_files -g "*.py"'
}

_nnUNetv2_planner() {
    _wanted planners expl 'planner' compadd @planners@
}

_nnUNetv2_fold() {
    _wanted folds expl 'fold' compadd 0 1 2 3 4 all
}

_nnUNetv2_more() {  # one more value of the last option if it takes several (more: option -> how), else what is left
    local last=${words[(I)-*]}
    last=${words[last]}
    if [[ -n $more[$last] ]]; then eval "$more[$last]"; elif [[ -n $rest ]]; then eval "$rest"; fi
}
"""


def zsh_script(commands: Sequence[Command], trainers: Iterable[str], planners: Iterable[str]) -> str:
    """The script.

    Args:
        commands: The commands.
        trainers: Names for ``-tr``.
        planners: Names for ``-pl``.
    """
    head = _HEAD.replace("@configurations@", " ".join(CONFIGURATIONS))
    head = head.replace("@trainers@", " ".join(trainers)).replace("@planners@", " ".join(planners))
    functions = "\n\n".join(_function(command) for command in commands)
    lines = "\n".join(f"compdef _{command.name} {command.name}" for command in commands)
    return f"{head}\n{functions}\n\n{lines}\n"


def _function(command: Command) -> str:
    if not command.within:
        return f"_{command.name}() {{\n{_call(command)}\n}}"
    words = " ".join(part.name for part in command.within)
    parts = "\n".join(f"    {part.name})\n{_call(part)} ;;" for part in command.within)
    return (
        f"_{command.name}() {{\n    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n"
        f"        _wanted subjects expl 'subject' compadd {words}\n        return\n    fi\n"
        f"    local subject=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $subject in\n{parts}\n"
        f"    *)\n{_call(command)} ;;\n    esac\n}}"
    )


def _call(command: Command) -> str:
    several = {n: o.value for o in command.options if o.value is not None and o.value.many for n in o.names}
    more = " ".join(f"{name} {_quoted(_command(value))}" for name, value in several.items())
    rest = next((_command(value) for value in command.positionals if value.many), "")
    specs = [spec for option in command.options for spec in _option(option)]
    specs += [
        f"{number}:{_escaped(value.label)}:{_action(value)}"
        for number, value in enumerate(command.positionals, start=1)
        if not value.many
    ]
    lines = [f"        {_quoted(spec)}" for spec in [*specs, "*:more:_nnUNetv2_more"]]
    known = f"    local -A more=({more})\n    local rest={_quoted(rest)}\n"
    return f"{known}    _arguments \\\n" + " \\\n".join(lines)


def _option(option: Option) -> Iterator[str]:
    others = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    for name in option.names:
        spec = f"{others}{name}[{_escaped(option.about)}]"
        if option.value is not None:
            spec += f":{_escaped(option.value.label)}:{_action(option.value)}"
        yield spec


def _action(value: Value) -> str:
    if value.kind == WORDS:
        return f"({' '.join(value.words)})"
    if value.kind == NOTHING:
        return " "
    return {FILE: "_files", FOLDER: "_files -/"}.get(value.kind, f"_nnUNetv2_{value.kind}")


def _command(value: Value) -> str:
    """The same as a command."""
    action = _action(value)
    return f"compadd {action[1:-1]}" if value.kind == WORDS else action


def _escaped(text: str) -> str:
    for sign in "\\[]:":
        text = text.replace(sign, f"\\{sign}")
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
