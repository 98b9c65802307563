#!/usr/bin/env bash
# Run the next unfilled rows of an experiment list on a GPU machine without network. The recipe's rows
# come first (acdc_lv_recipe_gpu), then the papers' (acdc_gpu, la_gpu):
#
#   benchmarks/gpu/run.sh [MINUTES=9] [LIST=acdc_lv_recipe_gpu]
#
# Installs the wheels of .gpu/ (see pack.sh), unpacks the data (that of the list's first word, acdc or
# la, as far as its archives are there), runs rows whose result file is not in
# benchmarks/results/LIST/ for as long as MINUTES allows, and leaves new result files there and in
# $OUT/results.tar where OUT is set. Call it again for the next rows; copy the files into
# benchmarks/results/ of the repository between calls to a machine that starts anew.
set -euo pipefail
cd "$(dirname "$0")/../.."
minutes=${1:-9}
list=${2:-acdc_lv_recipe_gpu}
site=${MIXSEG_GPU_SITE:-/tmp/mixseg-site}
name=${list%%_*}
data=${MIXSEG_GPU_DATA:-/tmp/mixseg-$name}
if [ ! -d "$site/monai" ]; then
  python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site" .gpu/wheels/*.whl
fi
mkdir -p "$site/mixseg" "$data"
for folder in networks transforms losses objectives engines handlers metrics data cli; do
  ln -sfn "$PWD/$folder" "$site/mixseg/$folder"
done
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
for archive in .gpu/"$name".[0-9].tar.xz; do
  done_mark="$data/.$(basename "$archive").unpacked"
  if [ -e "$archive" ] && [ ! -e "$done_mark" ]; then
    tar -C "$data" -xJf "$archive"
    find "$data" -name '*.nii' -print0 | xargs -0 -P 16 -n 10 gzip -1
    touch "$done_mark"
  fi
done
python3 -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
python3 benchmarks/experiments/run.py "benchmarks/experiments/$list.yaml" \
  --dataset_dir "$data" --minutes "$minutes" --work /tmp/mixseg-runs || status=$?
if [ -n "${OUT:-}" ]; then
  tar -cf "$OUT/results.tar" -C benchmarks/results "$list" 2>/dev/null || true
  find /tmp/mixseg-runs -name log.txt -exec tail -n 60 {} + > "$OUT/logs.txt" 2>/dev/null || true
fi
exit "${status:-0}"
