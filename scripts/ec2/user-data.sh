#!/bin/bash
# Prepares a Debian 12 machine for PennCloud: as user-data at its first boot, and again by `deploy` and
# `upgrade` with a wheel to install. Done a second time it changes nothing.
#     user-data.sh [WHEEL]
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

apt_get() {
    # At the first boot other programs use apt, too, and mirrors may be slow.
    for attempt in 1 2 3 4 5; do
        apt-get -o DPkg::Lock::Timeout=120 -y -qq "$@" >/dev/null && return 0
        sleep $((attempt * 3))
    done
    echo "apt-get $* failed" >&2
    return 1
}

if ! dpkg-query -W -f '${Status}\n' python3-venv chrony polkitd 2>/dev/null | grep -c '^install ok' | grep -qx 3; then
    apt_get update
    apt_get install --no-install-recommends python3-venv chrony polkitd dbus ca-certificates
fi
[ -x /opt/penncloud/bin/pip ] || python3 -m venv /opt/penncloud
install -d -m 755 /etc/penncloud
install -d -m 755 /etc/penncloud/tls

if [ $# -gt 0 ]; then
    /opt/penncloud/bin/pip --disable-pip-version-check --quiet install --upgrade "$1"
fi
touch /var/lib/penncloud-prepared
