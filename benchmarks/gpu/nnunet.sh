#!/usr/bin/env bash
# nnU-Net beside the flagship at full size, on a GPU machine without network:
#
#   benchmarks/gpu/nnunet.sh [MINUTES=120] [CORES=12]
#
# As benchmarks/nnunet/ has it on a CPU, but for the size: nnU-Net has its own schedule (1,000 epochs
# of 250 iterations), or the part of it that MINUTES hold; the flagship sees whole slices of 224² and
# has nnU-Net's channels and 30,000 iterations. What is trained already is not trained again. Result
# files go to benchmarks/results/nnunet/, and to $OUT/results.tar where OUT is set.
set -euo pipefail
cd "$(dirname "$0")/../.."
source benchmarks/gpu/setup.sh
minutes=${1:-120}
cores=${2:-12}
setup acdc
work=/tmp/mixseg-nnunet
compare() {
  python3 benchmarks/nnunet/compare.py "$@" --dataset_dir "$data" --work "$work" --cores "$cores"
}
if [ ! -e "$work/nnunet/preprocessed/Dataset001_ACDCLV/preparation.json" ]; then
  compare prepare
fi
if [ ! -e "$work/flagship_gpu/training.json" ]; then
  compare train flagship --name flagship_gpu --settings 'crop_size=[224,224]' \
    'spatial_size=[224,224]' 'features=[32,64,128,256,512]' max_epochs=300
fi
if [ ! -e "$work/nnunet_gpu/training.json" ]; then
  compare train nnunet --name nnunet_gpu --minutes "$minutes"
fi
compare score flagship_gpu nnunet_gpu
if [ -n "${OUT:-}" ]; then
  tar -cf "$OUT/results.tar" -C benchmarks/results nnunet
fi
