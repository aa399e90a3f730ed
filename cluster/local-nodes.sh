#!/usr/bin/env bash
# A cluster of several nodes on this machine, each a raylet with a loopback address of its own, with token auth: a head without CPUs, and a
# node for every argument. In the foreground: Ctrl-C ends them and nothing else.
#
#   cluster/local-nodes.sh [GROUP:CPUS …] &      default: training:2 data:2; job server on http://127.0.0.1:8265
#   export RAY_AUTH_MODE=token                   the client's side (the token is in ~/.ray/auth_token)
#   clickprompt submit pretrain --address http://127.0.0.1:8265 --config … --run …
#
# GROUP labels a node clickprompt.io/group=GROUP; none (:2) leaves it without. PORT and DASHBOARD_PORT say where it listens.
set -euo pipefail
export RAY_AUTH_MODE=token OMP_WAIT_POLICY=PASSIVE RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5
bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.venv/bin" 2>/dev/null && pwd || dirname "$(command -v ray)")
export PATH="$bin:$PATH"
[[ -n ${RAY_AUTH_TOKEN_PATH:-} ]] || ray get-auth-token --generate >/dev/null
(($#)) || set -- training:2 data:2
head=127.0.0.2 port=${PORT:-6379} # not 127.0.0.1, for which a driver looks at the machine's outer address
logs=$(mktemp -d) nodes=()

end() {
    trap - EXIT INT TERM
    kill "${nodes[@]}" 2>/dev/null || true # each ends what it has started
    wait
    rm -rf "$logs"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

node() { # one after the other: nodes that start at once take the same names for their sockets
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
    options=(--temp-dir "$logs/ray-${#nodes[@]}") # in a folder that they shared, one node would unpack a job's files where another's job runs
    [[ -z $group ]] || options+=(--labels "clickprompt.io/group=$group")
    node --address $head:"$port" --node-ip-address 127.0.0.$((++last)) --num-cpus "$cpus" "${options[@]}"
done
echo "${#nodes[@]} nodes, job server on http://127.0.0.1:${DASHBOARD_PORT:-8265}, Ray on $head:$port"
wait -n # a node that ends, ends all
