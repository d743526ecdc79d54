# Sourced by scripts/up, scripts/test and .ci/run: makes `.venv` and keeps it up to date.
#
# The stamp in .venv/penncloud.stamp holds one line per set of extras that is installed, keyed on what
# the installation depends on; while it matches, nothing is asked of pip and a start is quick.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"

say() { printf '%s\n' "$*" >&2; }

# apt_install PACKAGE...: true when the packages are installed; false without root or apt.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing by apt: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 </dev/null && return 0
    apt-get update -qq >/dev/null </dev/null &&
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null </dev/null
}

make_venv() {
    if python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv; then
        python3 -m venv "$venv"
    elif python3 -c 'import venv, pip' 2>/dev/null; then
        # Debian without python3-venv: its pip can fill an environment from outside.
        python3 -m venv --without-pip "$venv"
        python3 -m pip --disable-pip-version-check --quiet --python "$venv/bin/python" install pip
    else
        say "python3-venv is missing: install it first (apt install python3-venv)"
        return 1
    fi
}

# ensure_venv [EXTRAS]: .venv with PennCloud installed (editable) and these extras, e.g. test,dev.
ensure_venv() {
    local extras=${1:-} stamp="$venv/penncloud.stamp" key line
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        say "PennCloud needs Python 3.11 or newer as python3"
        return 1
    }
    exec 8>"$root/.venv.lock"
    flock 8
    key=$( (printf '%s\n' "$root"; python3 -V; cat "$root/pyproject.toml" "$root/setup.py") | sha256sum | cut -c1-32)
    line="$key [$extras]"
    if ! grep -qxF "$line" "$stamp" 2>/dev/null; then
        if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
            say "making $venv"
            rm -rf "$venv"
            make_venv
        fi
        say "installing PennCloud${extras:+ with $extras} into $venv (the first time takes a minute)"
        "$venv/bin/python" -m pip --disable-pip-version-check --quiet install \
            --root-user-action=ignore -e "$root${extras:+[$extras]}" </dev/null
        # What is installed with several extras is installed with each and with none of them, too.
        {
            grep -s "^$key " "$stamp" || true
            printf '%s\n' "$key []" "$line"
            # shellcheck disable=SC2086 # one line for each extra
            printf "$key [%s]\n" ${extras//,/ }
        } | sort -u >"$stamp.new"
        mv "$stamp.new" "$stamp"
    fi
    exec 8>&-
}
