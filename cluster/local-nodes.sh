#!/usr/bin/env bash
# Run a cluster of several nodes on this machine in the foreground, with token auth: a head without CPUs,
# and a node for every argument. Each node is a raylet with a loopback address of its own. Ctrl-C ends these
# nodes and nothing else.
#
#   cluster/local-nodes.sh [GROUP:CPUS …] &      default: training:2 data:2; job server on http://127.0.0.1:8265
#   export RAY_AUTH_MODE=token                   the client's side (the token is in ~/.ray/auth_token)
#   clickprompt submit pretrain --address http://127.0.0.1:8265 --config … --run …
#
# GROUP labels a node clickprompt.io/group=GROUP; an empty one (:2) leaves it without a label. The head
# listens on PORT and DASHBOARD_PORT.
set -euo pipefail
export RAY_AUTH_MODE=token OMP_WAIT_POLICY=PASSIVE RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5
bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.venv/bin" 2>/dev/null && pwd || dirname "$(command -v ray)")
export PATH="$bin:$PATH"
[[ -n ${RAY_AUTH_TOKEN_PATH:-} ]] || ray get-auth-token --generate >/dev/null
(($#)) || set -- training:2 data:2
# Not 127.0.0.1, because a driver replaces that by the machine's outer address
head=127.0.0.2 port=${PORT:-6379}
logs=$(mktemp -d) nodes=()

end() {
    trap - EXIT INT TERM
    kill "${nodes[@]}" 2>/dev/null || true # each node ends what it has started
    wait
    rm -rf "$logs"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Start nodes one after the other: those that start at once take the same names for their sockets
node() {
    local log=$logs/${#nodes[@]}
    : >"$log"
    ray start --block --disable-usage-stats --num-gpus 0 --dashboard-agent-listen-port 0 "$@" >"$log" 2>&1 &
    nodes+=($!)
    until grep -q 'Ray runtime started' "$log"; do
        kill -0 $! 2>/dev/null || { cat "$log" >&2 && exit 1; }
        sleep 0.2
    done
}

node --head --node-ip-address $head --port "$port" --num-cpus 0 --dashboard-host 127.0.0.1 --dashboard-port "${DASHBOARD_PORT:-8265}"
last=2
for spec in "$@"; do
    group=${spec%%:*} cpus=${spec##*:}
    # In a shared folder, one node would unpack a job's files where another node's job runs
    options=(--temp-dir "$logs/ray-${#nodes[@]}")
    [[ -z $group ]] || options+=(--labels "clickprompt.io/group=$group")
    node --address $head:"$port" --node-ip-address 127.0.0.$((++last)) --num-cpus "$cpus" "${options[@]}"
done
echo "${#nodes[@]} nodes, job server on http://127.0.0.1:${DASHBOARD_PORT:-8265}, Ray on $head:$port"
wait -n # one node that ends ends them all
