#!/usr/bin/env bash
# Run a cluster on this machine whose nodes have a network between them, in the foreground, with token auth:
# a head without CPUs, and a node for every argument, each in namespaces with an interface, an address, a host
# name and processes of its own. A node that ends is started again, as on Kubernetes. Needs root, iproute2 and
# util-linux. Ctrl-C ends what it started.
#
#   cluster/namespaces.sh [GROUP:CPUS …] &               default: training:1 training:1 data:3
#   ip link set clickprompt-1 down                       cut the first node off; up: give it back
#   ip netns pids clickprompt-0 | xargs kill -9          kill the head
#
# The head is clickprompt-0 at 10.77.22.2 (Ray on 6379, job server on 8265), the nodes follow.
#   DELAY=20 LOSS=0.01  every link takes so many ms in each direction, and loses such a part of the packets
#   REDIS=yes           the head keeps what it knows in a Redis (redis-server), where a new head finds it
set -euo pipefail
export RAY_AUTH_MODE=token OMP_WAIT_POLICY=PASSIVE RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "$here/../.venv/bin" 2>/dev/null && pwd || dirname "$(command -v ray)")
export PATH="$bin:$PATH"
[[ -n ${RAY_AUTH_TOKEN_PATH:-} ]] || ray get-auth-token --generate >/dev/null
(($#)) || set -- training:1 training:1 data:3
network=10.77.22 bridge=clickprompt last=$# started=()
if ip link show $bridge >/dev/null 2>&1; then
    echo "namespaces.sh: the bridge $bridge is there: another one runs, or was killed: ip link delete $bridge" >&2
    exit 2
fi
state=$(mktemp -d)
mkdir -p /tmp/ray

end() {
    trap - EXIT INT TERM
    kill "${started[@]}" 2>/dev/null || true # the loops of keep, the links and Redis
    for number in $(seq 0 "$last"); do
        ip netns pids "clickprompt-$number" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip link delete "clickprompt-$number" 2>/dev/null || true # at once, unlike by the end of a namespace
        ip netns delete "clickprompt-$number" 2>/dev/null || true
    done
    wait
    ip link delete $bridge
    rm -rf "$state"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Give a node its namespace and its link to the bridge: a cable, or one that delays and loses
link() {
    local name=clickprompt-$1
    ip netns delete "$name" 2>/dev/null || true # of one that was killed
    ip netns add "$name"
    if [[ -n ${DELAY:-}${LOSS:-} ]]; then
        python "$here/slow_link.py" "$name" "$name" "${DELAY:-0}" "${LOSS:-0}" &
        started+=($!)
        until ip link show "$name" && ip -n "$name" link show eth0; do sleep 0.1; done >/dev/null 2>&1
    else
        ip link add "$name" type veth peer name eth0 netns "$name"
    fi
    ip link set "$name" master $bridge up
    ip -n "$name" address add "$network.$(($1 + 2))/24" dev eth0
    ip -n "$name" link set eth0 up
    ip -n "$name" link set lo up
    echo "$network.$(($1 + 2)) $name" >>"$state/hosts"
}

# Run a node until it ends, and then again. By its processes and its /tmp/ray a driver finds its node
keep() {
    local name=clickprompt-$1 address=$network.$(($1 + 2))
    while :; do
        ip netns exec "$name" unshare --uts --pid --fork --mount-proc bash -c \
            'hostname "$1"; mount --bind "$2/hosts" /etc/hosts; mount --bind "$2/$1" /tmp/ray; exec ray start "${@:3}"' \
            - "$name" "$state" --block --disable-usage-stats --num-gpus 0 --node-ip-address "$address" "${@:2}" \
            >>"$state/$name.log" 2>&1 || true # with the first of its processes all others end
        sleep 1
    done
}

node() {
    mkdir "$state/clickprompt-$1"
    keep "$@" &
    started+=($!)
    until grep -qs 'Ray runtime started' "$state/clickprompt-$1.log"; do sleep 0.2; done
}

ip link add $bridge type bridge
ip address add $network.1/24 dev $bridge
ip link set $bridge up
echo "127.0.0.1 localhost" >"$state/hosts"
for number in $(seq 0 "$last"); do link "$number"; done
head=(--head --port 6379 --num-cpus 0 --dashboard-host 0.0.0.0)
if [[ -n ${REDIS:-} ]]; then
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    (umask 077 && echo "requirepass $password" >"$state/redis.conf")
    redis-server "$state/redis.conf" --bind $network.1 --port 6379 --dir "$state" --appendonly yes >"$state/redis.log" &
    started+=($!)
    export RAY_REDIS_ADDRESS=$network.1:6379
    head+=(--redis-password "$password")
fi
node 0 "${head[@]}"
unset RAY_REDIS_ADDRESS
number=0
for spec in "$@"; do
    group=${spec%%:*} options=(--address $network.2:6379 --num-cpus "${spec##*:}")
    [[ -z $group ]] || options+=(--labels "clickprompt.io/group=$group")
    node $((++number)) "${options[@]}"
done
echo "$((last + 1)) nodes, job server on http://$network.2:8265, Ray on $network.2:6379"
wait
