#!/bin/sh
# Removes what install.sh installed.
set -eu

usage() {
    cat <<'EOT'
usage: uninstall.sh [--prefix DIR] [--root DIR] [--purge]

Stops the agent and removes the binary, its unit and what lies below PREFIX/share. Configuration, credentials and state are kept,
so that a later installation goes on where this one ended.

  --prefix DIR   what install.sh was given; /usr/local
  --root DIR     what install.sh was given
  --purge        remove configuration, credentials and state too: the node needs a new one-time token afterwards.
                 The user pullet is left. What the agent applied stays; `pullet uninstall`, before this, takes the agent's
                 traces out of a cluster.
EOT
}

fail() {
    printf 'uninstall.sh: %s\n' "$*" >&2
    exit 1
}

prefix=/usr/local
root=
purge=no
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help)
            usage
            exit 0
            ;;
        --prefix | --root)
            [ $# -gt 1 ] || fail "$1 needs a directory"
            [ "$1" = --prefix ] && prefix=${2%/} || root=${2%/}
            shift
            ;;
        --prefix=*) prefix=${1#*=} prefix=${prefix%/} ;;
        --root=*) root=${1#*=} root=${root%/} ;;
        --purge) purge=yes ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
    shift
done
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "only root can do that: sudo $0"
[ -e "$root$prefix/bin/pullet" ] || fail "there is no $root$prefix/bin/pullet; --prefix names where it was installed"

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now pullet.service pullet-firstboot.service 2>/dev/null || true
fi
for unit in "$root"/etc/systemd/system/pullet*.service; do
    [ ! -f "$unit" ] || rm "$unit"
done
for link in "$root"/etc/systemd/system/*.wants/pullet*; do
    [ ! -L "$link" ] || rm "$link"
done
rm -rf "$root/usr/lib/pullet"
rm -f "$root/usr/lib/sysusers.d/pullet.conf" "$root/usr/lib/tmpfiles.d/pullet.conf" "$root$prefix/bin/pullet"
share=$root$prefix/share
rm -rf "$share/pullet" "$share/doc/pullet"
rm -f "$share"/man/man*/pullet*.gz "$share/bash-completion/completions/pullet" \
    "$share/fish/vendor_completions.d/pullet.fish" "$share/zsh/vendor-completions/_pullet"
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
if [ "$purge" = yes ]; then
    rm -rf "$root/etc/pullet" "$root/var/lib/pullet" "$root/run/pullet"
    echo "pullet is removed, with configuration, credentials and state"
else
    echo "pullet is removed; /etc/pullet and /var/lib/pullet are kept (--purge removes them)"
fi
