# Sourced by test.sh and demo.sh: an environment in .venv, made or refreshed only when something changed.
#   prepare_environment runtime     what the commands need
#   prepare_environment dev         the same, and the tools of the tests

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.10 or newer with venv is needed. Install it, or name it: PYTHON=/path/to/python3.12 $0" >&2
    return 1
}

prepare_environment() {
    local kind=$1 python wanted torch target
    wanted="$(cksum < pyproject.toml) $(cksum < constraints.txt) $PWD"
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || return 1
        echo "Making .venv with $("$python" --version) ..."
        "$python" -m venv .venv || return 1
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
    for stamp in .venv/installed-dev ".venv/installed-$kind"; do
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
            return 0
        fi
    done
    echo "Installing into .venv (the first time this takes a few minutes) ..."
    torch=$(grep -E '^torch==' constraints.txt | cut -d' ' -f1)
    target=.
    [ "$kind" = dev ] && target='.[dev]'
    # torch first and alone: it is by far the largest, and everything else is chosen to fit it
    python -m pip install -qq --disable-pip-version-check -c constraints.txt "$torch" &&
        python -m pip install -qq --disable-pip-version-check -c constraints.txt -e "$target" || return 1
    echo "$wanted" > ".venv/installed-$kind"
}
