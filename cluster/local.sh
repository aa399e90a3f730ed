#!/usr/bin/env bash
# Run a one-machine cluster with token auth in the foreground. Ctrl-C ends it and nothing else.
#
#   cluster/local.sh &                       head on 127.0.0.1, job server on http://127.0.0.1:8265
#   export RAY_AUTH_MODE=token               the client's side (the token is in ~/.ray/auth_token)
#   clickprompt submit pretrain --address http://127.0.0.1:8265 --config … --run …
#
# CPUS (default 4) is the number of logical CPUs that it declares; it listens on PORT and DASHBOARD_PORT.
set -euo pipefail
export RAY_AUTH_MODE=token OMP_WAIT_POLICY=PASSIVE RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5
bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.venv/bin" 2>/dev/null && pwd || dirname "$(command -v ray)")
export PATH="$bin:$PATH"
[[ -n ${RAY_AUTH_TOKEN_PATH:-} ]] || ray get-auth-token --generate >/dev/null
exec ray start --head --block --disable-usage-stats --node-ip-address=127.0.0.1 --port "${PORT:-6379}" \
    --dashboard-host=127.0.0.1 --dashboard-port "${DASHBOARD_PORT:-8265}" --num-cpus "${CPUS:-4}"
