#!/usr/bin/env bash
# Collect what a GPU machine without network needs, below .gpu/ (ignored by git):
#
#   benchmarks/gpu/pack.sh ACDC
#
# Wheels for CPython 3.12 on x86-64 (torch and NumPy are expected there) and the data, as one archive.
set -euo pipefail
cd "$(dirname "$0")/../.."
acdc=${1:?usage: benchmarks/gpu/pack.sh ACDC_FOLDER}
mkdir -p .gpu/wheels
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  --dest .gpu/wheels --requirement benchmarks/gpu/requirements.txt
# One xz stream over the raw voxels is a quarter smaller than 160 gzipped files.
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
cp -r "$acdc"/{image,label,scribble,split.json} "$raw"
find "$raw" -name '*.gz' -exec gunzip {} +
tar -C "$raw" -cJf .gpu/acdc.tar.xz image label scribble split.json
du -sh .gpu
echo "next: benchmarks/gpu/run.sh on the GPU machine, with .gpu beside the checkout's files"
