# shellcheck shell=bash disable=SC2154,SC2034
# What the scripts beside this one have in common; they source it, in the root of the repository, with a directory of their own
# in $work. What one of them wants shown when it fails is its function show_state.

show_state() {
    :
}
say() {
    printf -- '- %s\n' "$*"
}
fail() {
    printf '%s: %s\n' "tests/device/$(basename "$0")" "$*" >&2
    show_state >&2 || true
    exit 1
}
wait_for() { # how many seconds at most, what for, a command
    local left=$1 what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || fail "not seen in time: $what"
        sleep 1
    done
}
is() { # what, what it is, what it should be
    [ "$2" = "$3" ] || fail "$1 is '$2', and should be '$3'"
    say "$1: $2"
}

# A block of a page: the page, the heading that it stands under, what follows its fence, which one of these it is there.
block_of() {
    local text
    text=$(awk -v heading="## $2" -v fence="\`\`\`$3" -v wanted="$4" '
        /^## / { is_here = $0 == heading }
        is_here && $0 == fence { is_wanted = ++count == wanted; next }
        /^```$/ { is_wanted = 0 }
        is_wanted' "$1")
    [ -n "$text" ] || fail "$1 has no block $4 of '$3' under '$2'"
    printf '%s\n' "$text"
}

# Authorities, and certificates by them.
authority() { # its name
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/$1.key" -out "$work/$1.crt" \
        -days 90 -subj "/CN=$1" 2>/dev/null
}
certificate() { # the authority, the name of the file, the subject, names or nothing
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/$2.key" -subj "$3" 2>/dev/null |
        openssl x509 -req -CA "$work/$1.crt" -CAkey "$work/$1.key" -CAcreateserial -days 90 -out "$work/$2.crt" \
            -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\n%s\n' "${4:+subjectAltName=$4}") 2>/dev/null
}

# An API server with its etcd, and an admin's kubeconfig for it, as k3s writes one.
api_server() { # the address that it says of itself, where the kubeconfig goes, what else the server is told
    local address=$1 kubeconfig=$2
    shift 2
    authority ca
    certificate ca server /CN=server "IP:$address,IP:127.0.0.1,IP:10.96.0.1,DNS:kubernetes.default.svc"
    certificate ca admin /O=system:masters/CN=admin
    openssl ecparam -name prime256v1 -genkey -noout -out "$work/account.key" 2>/dev/null
    openssl ec -in "$work/account.key" -pubout -out "$work/account.pub" 2>/dev/null
    cat >"$kubeconfig" <<EOT
apiVersion: v1
kind: Config
current-context: default
clusters:
- name: default
  cluster:
    certificate-authority-data: $(base64 -w0 "$work/ca.crt")
    server: https://127.0.0.1:6443
contexts:
- name: default
  context:
    cluster: default
    user: default
users:
- name: default
  user:
    client-certificate-data: $(base64 -w0 "$work/admin.crt")
    client-key-data: $(base64 -w0 "$work/admin.key")
EOT
    chmod 600 "$kubeconfig"
    "$KUBEBUILDER_ASSETS/etcd" --data-dir "$work/etcd" --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 >"$work/etcd.log" 2>&1 &
    "$KUBEBUILDER_ASSETS/kube-apiserver" --bind-address=0.0.0.0 --advertise-address="$address" --secure-port=6443 \
        --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range=10.96.0.0/16 --client-ca-file="$work/ca.crt" \
        --tls-cert-file="$work/server.crt" --tls-private-key-file="$work/server.key" --authorization-mode=RBAC --allow-privileged=true \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$work/account.pub" \
        --service-account-signing-key-file="$work/account.key" --cert-dir="$work" \
        --kubelet-client-certificate="$work/admin.crt" --kubelet-client-key="$work/admin.key" --kubelet-preferred-address-types=InternalIP \
        "$@" >"$work/apiserver.log" 2>&1 &
    wait_for 60 "the API server" kubectl --kubeconfig "$kubeconfig" get --raw /readyz
}

# The control plane, which is outside of the cluster; its certificate is $work/plane.crt.
start_plane() { # its port
    mkdir -p "$work/plane/jobs"
    python3 "$PWD/tests/device/plane.py" "$work/plane" "$1" 0.0.0.0 "$work/plane.crt" "$work/plane.key" >>"$work/plane.log" 2>&1 &
    plane=$!
}
# Another node may register.
forget_node() {
    rm -f "$work/plane/registered"
}

# A Debian 12 that boots in namespaces and control groups of its own, in this kernel and in the network of the caller. Not a virtual
# machine: it has no kernel, no devices and no network of its own.
leader=
groups=(memory pids devices freezer systemd)
can_boot() {
    local tool
    for tool in mmdebstrap unshare nsenter; do
        command -v "$tool" >/dev/null || return 1
    done
    [ "$(id -u)" = 0 ] && [ -d /sys/fs/cgroup/memory ] && [ -d /sys/fs/cgroup/systemd ]
}
# Systems as Debian makes them: made once, and kept beside $work. The other one is for a Pi, which cannot be run here: only the files.
make_debian() { # which
    local name=debian-12-$1
    local archive
    archive=$(dirname "$work")/$name.tar
    [ ! -e "$archive" ] || return 0
    case "$1" in
        booted) set -- --variant=minbase --include=systemd-sysv,sudo,curl ;;
        arm64) set -- --variant=extract --architectures=arm64 --include=systemd ;;
    esac
    # Another script may make it at the same time.
    mmdebstrap --quiet --format=tar "$@" bookworm "$work/$name.tar" || fail "no Debian: mmdebstrap failed"
    mv "$work/$name.tar" "$archive"
}
unpack_debian() { # which, where to
    make_debian "$1"
    tar -C "$2" --keep-directory-symlink --exclude='./dev/*' -xf "$(dirname "$work")/debian-12-$1.tar"
}
# An image as one of Raspberry Pi OS: a boot partition, and a root of a directory, which goes.
image_of() { # the directory, the image
    truncate -s 460M "$2"
    printf 'label: dos\nstart=%s, size=81920, type=c\nstart=%s, type=83\n' 8192 90112 | sfdisk -q "$2"
    mkfs.vfat -F 32 -s 1 --offset 8192 "$2" 40960 >/dev/null 2>&1
    mkfs.ext4 -q -E "offset=$((90112 * 512))" -d "$1" "$2" 350M 2>/dev/null
    rm -rf "$1"
}
boot() { # what is mounted at $work/root
    local controller started
    group=pullet-$(basename "$work")
    for controller in "${groups[@]}"; do
        mkdir "/sys/fs/cgroup/$controller/$group"
    done
    # shellcheck disable=SC2016 # it is the inner shell that expands
    bash -c '
        set -eu
        for controller in $2; do echo $$ >"/sys/fs/cgroup/$controller/$1/cgroup.procs"; done
        exec unshare --cgroup --pid --mount --ipc --uts --fork --kill-child --propagation private bash -euc "$3" bash "$0" "$2"
    ' "$work/root" "$group" "${groups[*]}" '
        cd "$1"
        mount -t proc proc proc
        mount -t sysfs -o ro sysfs sys
        mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
        for controller in $2; do
            mkdir "sys/fs/cgroup/$controller"
            options=$controller
            [ "$controller" != systemd ] || options=none,name=systemd,xattr
            mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/$controller"
        done
        mount -t tmpfs -o mode=755 tmpfs run
        mount -t tmpfs -o mode=755 tmpfs dev
        for device in null zero full random urandom tty; do
            touch "dev/$device"
            mount --bind "/dev/$device" "dev/$device"
        done
        mkdir dev/pts dev/shm
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        pivot_root . mnt
        cd /
        umount -l /mnt
        # What a unit is handed over is mounted in a namespace and has to be seen in this one.
        mount --make-rshared /
        exec env -i container=pullet-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no
    ' >"$work/console" 2>&1 &
    started=$!
    for _ in $(seq 100); do
        leader=$(pgrep -P "$started") && [ "$(cat "/proc/$leader/comm")" = systemd ] && break
        sleep 0.1
    done
    [ -n "$leader" ] || fail "the system does not boot"
    wait_for 120 "a system that is up" is_up
    is "systemd" "$(inside systemctl --version | awk 'NR == 1 { print $2 }')" 252
    is "units that failed" "$(inside systemctl --failed --no-legend --plain | wc -l)" 0
}
inside() {
    nsenter -t "$leader" -m -p -i -u -C -r -w env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
is_up() {
    [[ $(inside systemctl is-system-running) =~ ^(running|degraded)$ ]]
}
property() {
    inside systemctl show -P "$1" pullet
}
is_unit_connected() {
    [ "$(property StatusText)" = "connected, waiting for jobs" ]
}
show_system() {
    if [ -n "$leader" ]; then
        inside systemctl status --no-pager -l pullet pullet-firstboot || true
        inside journalctl --no-pager -o cat -n 60 -u pullet -u pullet-firstboot || true
    fi
    tail -n 20 "$work/console" 2>/dev/null || true
}
halt() { # and away with $work
    [ -z "$leader" ] || kill -9 "$leader" 2>/dev/null || true
    # All that ran in it takes a moment to end.
    local try controller left
    for try in 1 2 3 4 5; do
        left=0
        umount -R "$work/root" 2>/dev/null
        ! mountpoint -q "$work/root" || left=1
        for controller in "${groups[@]}"; do
            [ -n "${group-}" ] || break
            find "/sys/fs/cgroup/$controller/$group" -depth -type d -exec rmdir {} + 2>/dev/null
            [ ! -d "/sys/fs/cgroup/$controller/$group" ] || left=1
        done
        [ "$left" = 1 ] || break
        sleep "$try"
    done
    mountpoint -q "$work/root" || rm -rf "$work"
}
