#!/bin/bash
# Two machines on one, for two_machines.sh. It needs Linux, root, iproute2, util-linux and openssh-server.
#
#   bash two_machines_stand_in.sh up      makes both, in the folder `machines` of the current folder
#   bash two_machines_stand_in.sh down    ends all that runs on them, and removes them
#
# A machine has its own network (`ip netns`), processes, host name, user, /tmp and home folder, and a server of OpenSSH.
# It sees the programs of this computer and the Python of `nni-cream`, read-only, and no other file of it.
set -euo pipefail

bridge=two-machines
user=alice
id=64001 # of a user that this computer need not have
manager=198.51.100.1 # RFC 5737 reserves 198.51.100.0/24 for documentation
names=(north south)
addresses=(198.51.100.11 198.51.100.12)
ports=(22 10022)

up() {
    [ "$(id -u)" = 0 ] || fail "the user is $(id -un); expected root, who alone may add a network. Use sudo."
    for program in ip unshare ssh-keygen /usr/sbin/sshd; do
        command -v "$program" > /dev/null || fail "$program is missing; expected iproute2, util-linux and openssh-server."
    done
    ! ip link show "$bridge" &> /dev/null || fail "$bridge is up; expected no such network. Another run may use it."
    mkdir machines
    ip link add "$bridge" type bridge
    ip address add "$manager/24" dev "$bridge"
    ip link set "$bridge" up
    ssh-keygen -q -t rsa -N '' -C two_machines -f machines/id_rsa
    for index in "${!names[@]}"; do
        start "${names[index]}" "${addresses[index]}" "${ports[index]}"
    done
    for index in "${!names[@]}"; do
        await "${names[index]}"
        echo "${names[index]}: $user@${addresses[index]}, port ${ports[index]}"
    done
}

fail() {
    echo "two_machines_stand_in: error: $1" >&2
    exit 1
}

# NAME ADDRESS PORT: makes the network of a machine, then the machine.
start() {
    local space="$bridge-$1" folder="$PWD/machines/$1"
    mkdir -p "$folder/root" "$folder/home/.ssh"
    ssh-keygen -q -t ed25519 -N '' -C '' -f "$folder/host_key"
    cp machines/id_rsa.pub "$folder/home/.ssh/authorized_keys"
    chown -R "$id:$id" "$folder/home"
    ip netns add "$space"
    ip link add "to-$1" type veth peer name eth0 netns "$space"
    ip link set "to-$1" master "$bridge" up
    ip -n "$space" address add "$2/24" dev eth0
    ip -n "$space" link set eth0 up
    ip -n "$space" link set lo up
    ip netns exec "$space" unshare --mount --uts --ipc --pid --fork --kill-child \
        bash "$0" be "$1" "$folder" "$3" > "$folder/log" 2>&1 &
    echo "$1 $(cut -d ' ' -f 1,2 "$folder/host_key.pub")" >> machines/known_hosts
    cat >> machines/ssh_config <<CONFIG
Host $1
    HostName $2
    HostKeyAlias $1
    Port $3
    User $user
    IdentityFile $PWD/machines/id_rsa
    UserKnownHostsFile $PWD/machines/known_hosts
CONFIG
}

# NAME: waits until a machine answers.
await() {
    for _ in {1..300}; do
        if ssh -F machines/ssh_config "$1" true 2> machines/ssh.log; then return; fi
        sleep 0.2
    done
    cat "machines/$1/log" machines/ssh.log >&2
    return 1
}

# NAME FOLDER PORT, in the namespaces of a machine: builds the disk that it sees, and becomes its SSH server.
be() {
    local root="$2/root" part python
    hostname "$1"
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs "$root"
    for part in /usr /bin /sbin /lib /lib32 /lib64 /etc; do
        if [ -L "$part" ]; then cp -P "$part" "$root$part"; elif [ -d "$part" ]; then show "$part" "$root"; fi
    done
    python="$(command -v python3)"
    mapfile -t parts < <("$python" -c "$FOLDERS")
    for part in "${parts[@]}"; do show "$part" "$root"; done
    mkdir -p "$root"/{dev,proc,run/sshd,tmp,root,home/$user}
    chmod 1777 "$root/tmp"
    mount --bind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount -t proc proc "$root/proc"
    mount --bind "$2/home" "$root/home/$user"
    grep -v "^$user:" /etc/passwd > "$root/run/passwd"
    echo "$user:*:$id:$id::/home/$user:/bin/bash" >> "$root/run/passwd"
    mount --bind "$root/run/passwd" "$root/etc/passwd"
    # Stands for an installation: an environment of the user's own that finds the packages of this computer.
    chroot --userspec="$id:$id" "$root" "$python" -m venv --without-pip "/home/$user/nni_cream/.venv"
    "$python" -c "$PACKAGES" > "$(echo "$2"/home/nni_cream/.venv/lib/python*/site-packages)/shared.pth"
    install -m 600 "$2/host_key" "$root/run/host_key"
    printf '%s\n' "Port $3" "HostKey /run/host_key" "PasswordAuthentication no" "PidFile none" "LogLevel ERROR" \
        "Subsystem sftp internal-sftp" > "$root/run/sshd_config"
    exec env -i "$(command -v chroot)" "$root" /usr/sbin/sshd -D -e -f /run/sshd_config
}

# Folders that an environment of Python consists of.
FOLDERS='
import sys, nni_cream
from pathlib import Path
print(*{sys.prefix, sys.base_prefix, Path(nni_cream.__file__).parents[1]}, sep="\n")
'
# Where this Python finds packages.
PACKAGES='
import sys, nni_cream
from pathlib import Path
print(Path(nni_cream.__file__).parents[1], *(place for place in sys.path if place.endswith("-packages")), sep="\n")
'

# FOLDER ROOT: shows a folder of this computer at the same place of a machine, read-only.
show() {
    mkdir -p "$2$1"
    mount --bind "$1" "$2$1"
    mount -o remount,bind,ro "$2$1"
}

down() {
    local name
    [ -d machines ] || return 0
    for name in "${names[@]}"; do
        remove "$bridge-$name"
    done
    ip link delete "$bridge" 2> machines/log || true
    rm -rf machines
}

# SPACE: ends all processes of a network, and removes it.
remove() {
    ip netns list | grep -q "^$1\b" || return 0
    while [ -n "$(ip netns pids "$1")" ]; do
        ip netns pids "$1" | xargs -r kill -KILL 2> machines/log || true
        sleep 0.1
    done
    ip netns delete "$1"
}

"$@"
