#!/usr/bin/env bash
# Run Python on an emulated ARM processor: tests/arm64/python.sh FOLDER CPU ARGUMENTS...
set -euo pipefail
folder=$(realpath "$1") cpu=$2
shift 2
root=$folder/root
# A program that starts Python again must start the emulator: the kernel runs a script, but no ARM executable.
export EDGEAE_PYTHON=$folder/python-$cpu
if ! [ -x "$EDGEAE_PYTHON" ]; then
    printf '#!/bin/bash\nexec bash "%s" "%s" "%s" "$@"\n' "$(realpath "$0")" "$folder" "$cpu" > "$EDGEAE_PYTHON.partial"
    chmod +x "$EDGEAE_PYTHON.partial"
    mv "$EDGEAE_PYTHON.partial" "$EDGEAE_PYTHON"
fi
export PYTHONHOME=$root/usr PYTHONPATH=$folder/site-packages PYTHONDONTWRITEBYTECODE=1
exec "$folder/qemu/usr/bin/qemu-aarch64" -cpu "$cpu" -L "$root" "$root/usr/bin/python$(cat "$folder/.ready")" "$@"
