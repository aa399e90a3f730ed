#!/usr/bin/env bash
# Install clickprompt, from the checkout around this script, into a new virtual environment with the versions of constraints.txt.
#
#   cluster/install.sh TARGET cpu|cuda
#
# TORCH_INDEX says where torch's wheels are: by default PyTorch's own index of that variant; empty: wherever pip looks anyway.
set -euo pipefail
target=${1:?usage: cluster/install.sh TARGET cpu|cuda} variant=${2:?usage: cluster/install.sh TARGET cpu|cuda}
case $variant in
    cpu) index=https://download.pytorch.org/whl/cpu extras='' ;;
    cuda) index=https://download.pytorch.org/whl/cu130 extras='[gpu]' ;;
    *)
        echo "cluster/install.sh: variant $variant is unknown; use cpu or cuda" >&2
        exit 2
        ;;
esac
index=${TORCH_INDEX-$index}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python3 -m venv "$target"
"$target/bin/python" -m pip install --disable-pip-version-check --quiet --no-cache-dir \
    ${index:+--extra-index-url "$index"} --constraint constraints.txt ".$extras"
"$target/bin/clickprompt" doctor >/dev/null || [[ $? -eq 1 ]] # it starts; whether this machine has room is another question
