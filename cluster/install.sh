#!/usr/bin/env bash
# Install clickprompt from the checkout around this script into a new virtual environment, with the versions
# of constraints.txt.
#
#   cluster/install.sh TARGET cpu|cuda
#
# TORCH_INDEX is the index of torch's wheels. Default: PyTorch's own for that variant. Empty: only pip's
# usual index.
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
# Status 1 is fine: the command starts, and whether this machine has room is another question
"$target/bin/clickprompt" doctor >/dev/null || [[ $? -eq 1 ]]
