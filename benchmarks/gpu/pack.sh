#!/usr/bin/env bash
# Collect what a GPU machine without network needs, below .gpu/ (ignored by git):
#
#   benchmarks/gpu/pack.sh ACDC [LA]
#
# Wheels for CPython 3.12 on x86-64 (torch and NumPy are expected there) and the data, each set as two
# archives of less than 64 MiB: NAME.1 holds what Set-3 needs, NAME.2 the other training cases.
# Archives that are there already are kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
acdc=${1:?usage: benchmarks/gpu/pack.sh ACDC_FOLDER [LA_FOLDER]}
la=${2:-}
mkdir -p .gpu/wheels
wheels() { # what is after it: requirements
  python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest .gpu/wheels "$@"
}
wheels --requirement benchmarks/gpu/requirements.txt
# For nnunet.sh; acvl-utils, which is Python alone, comes without a wheel.
wheels --requirement <(grep -v ^acvl-utils benchmarks/nnunet/requirements.txt) \
  --requirement <(grep ^scikit-image requirements.txt) imageio lazy-loader tifffile
python3 -m pip wheel --quiet --no-deps --wheel-dir .gpu/wheels \
  "$(grep ^acvl-utils benchmarks/nnunet/requirements.txt)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pack() { # NAME FOLDER: image/, label/, scribble/ where there is one, and split.json
  if [ -e ".gpu/$1.1.tar.xz" ] && [ -e ".gpu/$1.2.tar.xz" ]; then return; fi
  mkdir "$work/$1"
  cp -r "$2"/{image,label,split.json} "$work/$1"
  if [ -d "$2/scribble" ]; then cp -r "$2/scribble" "$work/$1"; fi
  # One xz stream over the raw voxels is a quarter smaller than the gzipped files.
  find "$work/$1" -name '*.gz' -exec gunzip {} +
  python3 - "$work/$1" <<'PY'
import json, pathlib, sys
root = pathlib.Path(sys.argv[1])
split = json.loads((root / "split.json").read_text())
parts = {1: split["train"][:18] + split["val"] + split["test"], 2: split["train"][18:]}
for number, names in parts.items():
    # A case is one file, or a patient's several frames.
    files = [p for n in names for k in ("image", "label", "scribble")
             for p in sorted((root / k).glob(f"{n}[._]*"))]
    lines = ["split.json"] * (number == 1) + [str(p.relative_to(root)) for p in files]
    (root / f"part{number}").write_text("\n".join(lines) + "\n")
PY
  for part in 1 2; do
    tar -C "$work/$1" -cJf "$work/archive" -T "$work/$1/part$part"
    mv "$work/archive" ".gpu/$1.$part.tar.xz"
  done
}

pack acdc "$acdc"
if [ -n "$la" ]; then pack la "$la"; fi
du -sh .gpu/*
echo "next: benchmarks/gpu/run.sh on the GPU machine, with .gpu beside the checkout's files"
