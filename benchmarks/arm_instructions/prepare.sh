#!/usr/bin/env bash
# Build an emulator that counts instructions: benchmarks/arm_instructions/prepare.sh FOLDER
#
# Debian's qemu-user is built without plugins, so it is built here from Debian's own source, which takes some ten
# minutes on two cores; and the plugin that counts, blocks.c. What it needs: ninja-build libglib2.0-dev pkg-config flex
# bison gcc. Nothing is installed on this machine; sources come from the mirror that apt is set up with.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
[ -e "$folder/.counting" ] && exit 0

for tool in ninja pkg-config flex bison gcc; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install ninja-build libglib2.0-dev pkg-config flex bison gcc." >&2; exit 3; }
done
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u | head -1)
[ -n "$mirror" ] || { echo "apt has no package lists: run apt-get update first." >&2; exit 3; }

echo "source of the emulator" >&2
apt=$folder/apt-source
rm -rf "$apt" "$folder/qemu-source"
mkdir -p "$apt"/{lists/partial,archives/partial} "$folder/qemu-source"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$apt/sources.list"
private=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists"
         -o Dir::Cache="$apt" -o APT::Sandbox::User=root)
apt-get "${private[@]}" -qq update
(cd "$apt" && apt-get "${private[@]}" -qq --download-only source qemu)
tar -xf "$apt"/qemu_*.orig.tar.xz -C "$folder/qemu-source" --strip-components=1

echo "emulator, which takes some minutes" >&2
"$python" -m venv "$folder/build-environment"
"$folder/build-environment/bin/pip" install --quiet 'meson>=1.5' distlib pycotap setuptools wheel
cd "$folder/qemu-source"
./configure --python="$folder/build-environment/bin/python" --target-list=aarch64-linux-user --without-default-features \
    --enable-plugins --disable-system --disable-install-blobs --disable-docs > "$folder/configure.log" 2>&1 \
    || { tail -20 "$folder/configure.log" >&2; exit 1; }
ninja -C build qemu-aarch64 > "$folder/build.log" 2>&1 || { tail -20 "$folder/build.log" >&2; exit 1; }

echo "plugin" >&2
# shellcheck disable=SC2046 # the flags are several words
gcc -O2 -Wall -shared -fPIC -I include/qemu -I include $(pkg-config --cflags glib-2.0) -o "$folder/blocks.so" \
    "$here/blocks.c" $(pkg-config --libs glib-2.0)
touch "$folder/.counting"
