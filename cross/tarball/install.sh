#!/bin/sh
# Installs Pullet from the archive that this script lies in.
set -eu

usage() {
    cat <<'EOT'
usage: ./install.sh [--prefix DIR] [--root DIR] [--dry-run]

Installs the binary into PREFIX/bin and the rest below PREFIX/share; what fish completes into /etc/fish; a configuration with
nothing on as /etc/pullet/pullet.toml, unless there is one; and where there is systemd, the unit, the user `pullet` and its directories. An agent that runs is started
again with the new version; one that does not run stays so. Run it again with a newer archive to upgrade, with an older one
to go back: configuration and state are kept.

  --prefix DIR   instead of /usr/local
  --root DIR     install into this directory as if it were /, and start nothing; it may be of another machine
  --dry-run      say what would be done
EOT
}

fail() {
    printf 'install.sh: %s\n' "$*" >&2
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
dry_run=no
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
        --dry-run) dry_run=yes ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
    shift
done
# Whatever the person's is: what is installed is for all to read, and each file gets its mode.
umask 022

here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/pullet" ] || fail "there is no pullet beside this script: unpack the whole archive"
not_for="this archive is not for"
which="amd64 is for x86_64, arm64 for aarch64, armv7 for armv7l, armv6 for armv6l and every other 32-bit ARM"

# What machine a program is for, if it is one: its word size, byte order and e_machine.
machine_of() { # FILE
    od -An -tx1 -N 20 "$1" 2>/dev/null | tr -d ' \n' | sed -n 's/^7f454c46\(....\).*\(....\)$/\1\2/p'
}

if [ -z "$root" ]; then
    version=$("$here/pullet" --version 2>/dev/null) || fail "$not_for this machine ($(uname -m)): $which"
else
    version=$("$here/pullet" --version 2>/dev/null) || version=pullet
    # A link may lead out of the root, to what this machine has.
    for file in usr/bin/dash usr/bin/bash usr/bin/busybox usr/lib/systemd/systemd bin/dash bin/bash bin/busybox; do
        case "$(readlink "$root/${file%%/*}")" in
            /*) continue ;;
        esac
        [ ! -L "$root/$file" ] && [ -f "$root/$file" ] || continue
        its=$(machine_of "$root/$file")
        [ -z "$its" ] || [ "$its" = "$(machine_of "$here/pullet")" ] || fail "$not_for what lies in $root: $which"
        break
    done
fi

run() {
    if [ "$dry_run" = yes ]; then
        printf '%s\n' "$*"
    else
        "$@"
    fi
}

# Beside the old one first: a program that runs cannot be written over, but renamed over.
put() { # MODE FROM TO
    if [ "$dry_run" = yes ]; then
        printf 'install %s\n' "$3"
        return 0
    fi
    mkdir -p "$(dirname "$3")"
    cp "$2" "$3.new"
    chmod "$1" "$3.new"
    mv -f "$3.new" "$3"
}

put_below() { # DIRECTORY TO; of a link, what it leads to
    (cd "$1" && find . -type f -o -type l) | while read -r file; do
        put 644 "$1/${file#./}" "$2/${file#./}"
    done
}

[ "$dry_run" = yes ] || [ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "only root can install; sudo $0, or --root DIR, or --dry-run"

! grep -qsx /usr/bin/pullet "$root/var/lib/dpkg/info/pullet.list" ||
    fail "the Debian package is installed: dpkg -i a newer one, or dpkg -r pullet first (configuration and state are kept)"

# Whether this system is one of systemd, running or not.
has_systemd=no
for directory in /usr/lib/systemd/system /lib/systemd/system; do
    [ ! -d "$root$directory" ] || has_systemd=yes
done

put 755 "$here/pullet" "$root$prefix/bin/pullet"
put_below "$here/k3s" "$root$prefix/share/pullet/k3s"
put 644 "$here/licenses.gz" "$root$prefix/share/doc/pullet/licenses.gz"
put 644 "$here/LICENSE" "$root$prefix/share/doc/pullet/LICENSE"
put 755 "$here/uninstall.sh" "$root$prefix/share/pullet/uninstall.sh"
[ ! -d "$here/share" ] || put_below "$here/share" "$root$prefix/share"
put 644 "$here/pullet.toml" "$root$prefix/share/doc/pullet/examples/pullet.toml"
# There fish looks whatever its environment, and PREFIX/share is not where it does.
[ ! -d "$here/fish" ] || put 644 "$here/fish/pullet.fish" "$root/etc/fish/completions/pullet.fish"
[ -e "$root/etc/pullet/pullet.toml" ] || put 640 "$here/pullet.toml" "$root/etc/pullet/pullet.toml"

if [ "$has_systemd" = yes ]; then
    for unit in "$here"/systemd/*.service; do
        copy=$(mktemp)
        sed "s|/usr/local/bin/pullet|$prefix/bin/pullet|g" "$unit" >"$copy"
        put 644 "$copy" "$root/etc/systemd/system/${unit##*/}"
        rm "$copy"
    done
    for kind in sysusers tmpfiles; do
        put 644 "$here/systemd/pullet.$kind" "$root/usr/lib/$kind.d/pullet.conf"
    done
    put 755 "$here/systemd/pullet-firstboot" "$root/usr/lib/pullet/pullet-firstboot"
fi

if [ -n "$root" ]; then
    printf '%s is installed into %s; nothing was started\n' "$version" "$root"
    exit 0
fi

# The user, by whatever this system has.
if ! id pullet >/dev/null 2>&1; then
    if [ "$has_systemd" = yes ] && command -v systemd-sysusers >/dev/null; then
        run systemd-sysusers pullet.conf
    elif command -v useradd >/dev/null; then
        run useradd --system --user-group --home-dir /var/lib/pullet --shell /sbin/nologin pullet
    elif command -v adduser >/dev/null; then
        run adduser -S -D -H -h /var/lib/pullet -s /sbin/nologin pullet
        run addgroup -S pullet 2>/dev/null || true
    else
        fail "no systemd-sysusers, useradd or adduser: make a user and a group pullet, and run this again"
    fi
fi
run mkdir -p /etc/pullet/credentials
run chown root:pullet /etc/pullet /etc/pullet/pullet.toml
run chmod 750 /etc/pullet
run chmod 640 /etc/pullet/pullet.toml
run chmod 700 /etc/pullet/credentials

if [ "$has_systemd" = yes ] && [ -d /run/systemd/system ]; then
    run systemctl daemon-reload
    run systemctl try-restart pullet.service
    next="systemctl enable --now pullet"
else
    run mkdir -p /var/lib/pullet /run/pullet
    run chown pullet:pullet /var/lib/pullet /run/pullet
    run chmod 700 /var/lib/pullet
    next="have your init system run, as the user pullet and with /run/pullet made at each boot: $prefix/bin/pullet run"
fi
[ "$dry_run" = no ] || exit 0
cat <<EOT
$version is installed as $prefix/bin/pullet. To begin: pullet setup, or
  edit /etc/pullet/pullet.toml (take the # away before endpoint)
  put the one-time token into /etc/pullet/credentials/pullet.token
  $next
EOT
