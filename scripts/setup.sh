#!/usr/bin/env bash
# Sets up .venv with the locked packages and this checkout. Does nothing if that was done before.
#
# What pip cannot bring (a C++ compiler, Icarus, the interpreter's shared library) comes from apt if we are root;
# otherwise a sentence says what to type.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly LOCK=requirements.lock
readonly OURS=$VENV/made-by-tessera-setup  # only such a folder is ever removed
readonly READY=$VENV/ready                 # holds the key of the set-up that was finished

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3"
}

# Changes when the packages, the interpreter or the checkout's place change.
setup_key() {
    { cat pyproject.toml setup.py "$LOCK"; "$python" -VV; pwd; } | sha256sum | cut -d ' ' -f 1
}

# Prints the apt packages that are missing, one per line.
missing_packages() {
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
    if ! has_shared_library "$version"; then echo "libpython$version"; fi
    command -v iverilog >/dev/null || echo iverilog
}

# Whether the simulator process can load the interpreter.
has_shared_library() {
    "$python" - "$1" <<'END'
import pathlib, sys, sysconfig, ctypes
name = f"libpython{sys.argv[1]}.so.1.0"
try:
    ctypes.CDLL(name)
except OSError:
    folder = sysconfig.get_config_var("LIBDIR")
    sys.exit(not (folder and (pathlib.Path(folder) / name).exists()))
END
}

install_packages() {
    local missing=("$@")
    if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
        say "installing ${missing[*]} with apt-get"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return
        apt-get update -qq >/dev/null 2>&1 || true
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && return
        fail "apt-get could not install ${missing[*]}"
    fi
    if [[ ${missing[*]} == iverilog ]]; then
        say "Icarus Verilog is missing; the tests need it: sudo apt-get install iverilog"
        return
    fi
    fail "${missing[*]} missing; type: sudo apt-get install --no-install-recommends ${missing[*]}"
}

# Exactly what is asked for, and no output but errors.
pip_install() {
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "$@"
}

make_venv() {
    if [[ -e $VENV && ! -e $OURS ]]; then
        fail "$VENV exists but was not made by this script; move it away, or remove it"
    fi
    # The mark stays all the time, so that an interrupted set-up is known as ours and starts over.
    mkdir -p "$VENV"
    touch "$OURS"
    rm -f "$READY"
    find "$VENV" -mindepth 1 -not -path "$OURS" -delete
    say "making $VENV with $("$python" -V)"
    "$python" -m venv "$VENV"
    say "installing $(grep -c '==' "$LOCK") packages, one or two minutes"
    pip_install --no-compile -r "$LOCK"  # most modules are never imported; the others compile when they are
    pip_install --no-build-isolation --editable .
}

trap 'fail "interrupted; the next run starts over"' INT
python=$(find_python)
key=$(setup_key)
if [[ -e $READY && $(<"$READY") == "$key" ]]; then
    exit 0
fi
mapfile -t missing < <(missing_packages)
if ((${#missing[@]})); then install_packages "${missing[@]}"; fi
make_venv
echo "$key" >"$READY"
say "done"
