#!/usr/bin/env bash
# The peers' own environments, in .peers/: their pins conflict with each other's and with this project's.
# `exported` (LiteRT, ExecuTorch) borrows torch from this project's environment, which must exist.
#
#     bash benchmarks/peers/prepare.sh [ncnn mnn tvm exported]
set -euo pipefail
cd "$(dirname "$0")/../.."
here=benchmarks/peers
.venv/bin/python -m pip install --quiet --constraint constraints.txt -e '.[bench]'
for name in "${@:-ncnn mnn tvm exported}"; do
    for peer in $name; do
        if [ ! -d ".peers/$peer" ]; then .venv/bin/python -m venv ".peers/$peer"; fi
        if [ "$peer" = exported ]; then
            site=$(.peers/exported/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
            realpath "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" > "$site/base.pth"
        fi
        ".peers/$peer/bin/python" -m pip install --quiet -r "$here/requirements-$peer.txt" \
            || { echo "$peer cannot be installed: its rows will be absent"; rm -rf ".peers/$peer"; }
    done
done
