# Sourced, after _venv.sh, by what tries something in a clean Debian 12: a directory made by debootstrap, in
# which commands run by chroot.
#
# clean_debian [PACKAGE...] makes it, with these packages besides the base, and sets `place` (a directory that
# is removed at the end) and `place/root`; `inside COMMAND...` runs there.

clean_debian() {
    [ "$(id -u)" = 0 ] || { say "only root can make a Debian root"; exit 1; }
    command -v debootstrap >/dev/null || apt_install debootstrap || { say "debootstrap is missing"; exit 1; }
    place=$(mktemp -d /var/tmp/penncloud-debian.XXXXXX)
    trap 'umount -q "$place/root/dev/pts" || true; umount -q "$place/root/proc" || true; rm -rf --one-file-system "$place"' EXIT
    say "a clean Debian 12"
    local include
    include=$(IFS=,; printf '%s' "$*")
    debootstrap --variant=minbase ${include:+"--include=$include"} bookworm "$place/root" >/dev/null
    mount -t proc proc "$place/root/proc"
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$place/root/dev/pts"
    # No service may be started in it.
    printf '#!/bin/sh\nexit 101\n' >"$place/root/usr/sbin/policy-rc.d"
    chmod 755 "$place/root/usr/sbin/policy-rc.d"
    cp /etc/resolv.conf "$place/root/etc/resolv.conf"
    local each
    for each in /etc/pip.conf /etc/apt/apt.conf.d; do
        # How this machine reaches its mirrors.
        [ ! -e "$each" ] || cp -r "$each" "$place/root$(dirname "$each")/"
    done
    # Whom this machine trusts, for mirrors of its own.
    _pip=()
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
        cp -L /etc/ssl/certs/ca-certificates.crt "$place/root/trusted-here.crt"
        _pip=(PIP_CERT=/trusted-here.crt)
    fi
    [ -z "${PIP_INDEX_URL:-}" ] || _pip+=("PIP_INDEX_URL=$PIP_INDEX_URL")
}

inside() {
    chroot "$place/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C "${_pip[@]}" "$@"
}
