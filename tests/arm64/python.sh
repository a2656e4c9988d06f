#!/usr/bin/env bash
# Run Python on an emulated ARM processor: tests/arm64/python.sh FOLDER CPU ARGUMENTS...
set -euo pipefail
folder=$1 cpu=$2
shift 2
root=$folder/root
export PYTHONHOME=$root/usr PYTHONPATH=$folder/site-packages PYTHONDONTWRITEBYTECODE=1
exec "$folder/qemu/usr/bin/qemu-aarch64" -cpu "$cpu" -L "$root" "$root/usr/bin/python$(cat "$folder/.ready")" "$@"
