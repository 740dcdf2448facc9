# Sourced by the scripts that build an environment: goes to the repository root.
# shellcheck shell=bash

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "no Python 3.11, 3.12 or 3.13 found; install one and put it on PATH" >&2
    return 1
}

# build_venv DIRECTORY EXTRAS CONSTRAINTS: makes the environment current, installing what is new.
build_venv() {
    local venv=$1 extras=$2 constraints=$3 python wanted
    # The text that decides what is installed, and the place: console scripts hold absolute paths.
    wanted="$PWD $(cat setup.cfg pyproject.toml "$constraints" | cksum)"
    if [[ -x $venv/bin/meta-rl && "$(cat "$venv/installed-for" 2>/dev/null)" == "$wanted" ]]; then
        return
    fi
    if ! grep -qsF "$PWD/$venv/" "$venv/bin/pip" ||
        ! "$venv/bin/python" -m pip --version >/dev/null; then
        python=$(find_python)
        echo "building $venv with $python" >&2
        "$python" -m venv --clear "$venv"
    fi
    # The constraints name torch's tested version; which build of it (CPU or CUDA) is pip's choice
    # among the places it is set up to look in.
    "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        -c "$constraints" -e ".[$extras]"
    echo "$wanted" >"$venv/installed-for"
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
