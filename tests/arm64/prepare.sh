#!/usr/bin/env bash
# Build a 64-bit ARM user land to emulate: tests/arm64/prepare.sh FOLDER
#
# A Debian base system with Python, the aarch64 wheels of numpy and ONNX Runtime at the pinned versions, this
# runtime's wheel, and an emulator. Nothing is installed on this machine; every mirror is the one that apt and pip are
# set up with here. The emulator comes from Debian 13: version 7 of qemu, in Debian 12, crashes on ONNX Runtime.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
project=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
root=$folder/root
[ -e "$folder/.ready" ] && exit 0

. /etc/os-release
[ "$ID" = debian ] || { echo "This needs Debian (it asks debootstrap for the release of this machine), got $ID." >&2; exit 3; }
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u | head -1)
[ -n "$mirror" ] || { echo "apt has no package lists: run apt-get update first." >&2; exit 3; }
command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap." >&2; exit 3; }

echo "emulator" >&2
apt=$folder/apt
mkdir -p "$apt"/{lists/partial,archives/partial}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$apt/sources.list"
private=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists"
         -o Dir::Cache="$apt" -o APT::Sandbox::User=root)
apt-get "${private[@]}" -qq update
(cd "$apt" && apt-get "${private[@]}" -qq download qemu-user && dpkg -x qemu-user_*.deb "$folder/qemu")

echo "base system" >&2
rm -rf "$root"
debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 "$VERSION_CODENAME" "$root" "$mirror" >/dev/null
for package in "$root"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
version=$(basename "$(ls -d "$root"/usr/lib/python3.[0-9]*)" | sed 's/python//')

echo "wheels for Python $version" >&2
platforms=(--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64)
download=("$python" -m pip download --quiet --no-deps --only-binary=:all: --constraint "$project/constraints.txt"
          --python-version "$version" --dest "$folder/wheels")
"${download[@]}" "${platforms[@]}" numpy onnxruntime protobuf hypothesis
"${download[@]}" flatbuffers packaging pytest pluggy iniconfig pygments sortedcontainers
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder/wheels" "$project/runtime"
mkdir -p "$folder/site-packages"
for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$folder/site-packages"; done
echo 'import os, sys; sys.executable = os.environ.get("EDGEAE_PYTHON", sys.executable)' \
    > "$folder/site-packages/sitecustomize.py"
echo "$version" > "$folder/.ready"
