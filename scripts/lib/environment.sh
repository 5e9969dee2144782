# Sourced by the scripts: the repository, the cache, and a virtual environment with localml in it.
# shellcheck shell=bash

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export LOCALML_CACHE="${LOCALML_CACHE:-$repo/.cache}"
venv="$repo/.venv"
mkdir -p "$LOCALML_CACHE"
# Without bytecode each start of a server compiles all of localml, which takes half a second.
unset PYTHONDONTWRITEBYTECODE

# A heading: bold where that is a terminal's, and wanted.
say() {
    if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
        printf '\033[1m%s\033[0m\n' "$*"
    else
        printf '%s\n' "$*"
    fi
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# A Python of at least 3.11 that can make virtual environments; as root it is installed if there is none.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    if is_root && command -v apt-get >/dev/null; then
        {
            apt-get update
            DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
                python3 python3-venv ca-certificates
        } >"$LOCALML_CACHE/apt.log" 2>&1 || true
        if python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo python3
            return
        fi
    fi
    echo "Python 3.11 or newer with venv is needed (Debian, Ubuntu: apt-get install python3 python3-venv)" >&2
    return 1
}

# ensure_venv [dev]: make $venv, or bring it up to date when pyproject.toml has changed.
ensure_venv() {
    local groups="${1:-}" stamp want python pip
    want="$(sha256sum "$repo/pyproject.toml" | cut -d' ' -f1) ${groups}"
    stamp="$venv/.localml-stamp"
    if [ -x "$venv/bin/localml" ] && { [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] ||
        [ "$(cat "$stamp" 2>/dev/null)" = "${want}dev" ]; }; then
        return
    fi
    say "Installing localml into .venv ..."
    python="$(find_python)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore)
    "${pip[@]}" --upgrade 'pip>=25.1' 'setuptools>=70.1'
    (
        cd "$repo"
        "${pip[@]}" --editable '.[grpc]' ${groups:+--group "$groups"}
    )
    echo "$want" >"$stamp"
}
