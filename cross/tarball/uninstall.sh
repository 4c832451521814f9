#!/bin/sh
# Removes what install.sh installed.
set -eu

usage() {
    cat <<'EOT'
usage: uninstall.sh [--prefix DIR] [--root DIR] [--purge]

Stops the agent and removes the binary, its unit and what lies below PREFIX/share. Configuration, credentials and state are kept,
so that a later installation goes on where this one ended. What belongs to a Debian package is left to dpkg.

  --prefix DIR   what install.sh was given; /usr/local
  --root DIR     what install.sh was given
  --purge        remove configuration, credentials and state too, now or after a removal without it: the node needs a
                 new one-time token afterwards.
                 The user pullet is left. What the agent applied stays; `pullet uninstall`, before this, takes the agent's
                 traces out of a cluster.
EOT
}

fail() {
    printf 'uninstall.sh: %s\n' "$*" >&2
    exit 1
}

# An empty value comes of a variable that is not set, and / is what is left of "$DIR/" then: neither is meant.
place() { # OPTION DIRECTORY
    value=$2
    [ "$1" = --prefix ] || [ ! -d "$value" ] || value=$(cd "$value" && pwd -P)
    while [ "$value" != "${value%/}" ]; do
        value=${value%/}
    done
    [ -n "$value" ] || fail "$1 '$2': a directory, and not /"
    case "$value" in
        *[!A-Za-z0-9/._+-]*) fail "$1 $value: other characters than letters, digits and /._+- are not supported" ;;
    esac
    case "$1$value" in
        --root*) root=$value ;;
        --prefix/*) prefix=$value ;;
        *) fail "--prefix $value: a whole path, such as /usr/local" ;;
    esac
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
            place "$1" "$2"
            shift
            ;;
        --prefix=* | --root=*) place "${1%%=*}" "${1#*=}" ;;
        --purge) purge=yes ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
    shift
done
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "only root can do that: sudo $0"

# The package has the same unit, user and state.
is_packaged=no
! grep -qsx /usr/bin/pullet "$root/var/lib/dpkg/info/pullet.list" || is_packaged=yes
[ "$purge$is_packaged" != yesyes ] || fail "configuration and state are those of the Debian package: dpkg -P pullet"

if [ ! -e "$root$prefix/bin/pullet" ]; then
    # An earlier removal kept these. One whose unit is there goes on with them.
    [ "$purge" = yes ] && { [ -e "$root/etc/pullet" ] || [ -e "$root/var/lib/pullet" ]; } &&
        [ ! -f "$root/etc/systemd/system/pullet.service" ] ||
        fail "there is no $root$prefix/bin/pullet; --prefix names where it was installed"
fi

is_running() {
    [ -z "$root" ] && [ -d /run/systemd/system ]
}

if [ "$is_packaged" = no ]; then
    if is_running; then
        systemctl disable --now pullet.service pullet-firstboot.service 2>/dev/null || true
    fi
    for link in "$root"/etc/systemd/system/*.wants/pullet*; do
        [ ! -L "$link" ] || rm "$link"
    done
    rm -rf "$root/usr/lib/pullet"
    rm -f "$root/usr/lib/sysusers.d/pullet.conf" "$root/usr/lib/tmpfiles.d/pullet.conf"
fi
for unit in "$root"/etc/systemd/system/pullet*.service; do
    # One that the package goes by runs the package's program.
    [ ! -f "$unit" ] || { [ "$is_packaged" = yes ] && grep -q '^ExecStart=/usr/bin/' "$unit"; } || rm "$unit"
done
rm -f "$root$prefix/bin/pullet"
share=$root$prefix/share
rm -rf "$share/pullet" "$share/doc/pullet"
rm -f "$share"/man/man*/pullet*.gz "$share/bash-completion/completions/pullet" "$root/etc/fish/completions/pullet.fish" \
    "$share/zsh/site-functions/_pullet"
if is_running; then
    systemctl daemon-reload
fi
if [ "$purge" = yes ]; then
    rm -rf "$root/etc/pullet" "$root/var/lib/pullet" "$root/run/pullet"
    echo "pullet is removed, with configuration, credentials and state"
else
    echo "pullet is removed; /etc/pullet and /var/lib/pullet are kept (--purge removes them)"
fi
