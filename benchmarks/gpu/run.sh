#!/usr/bin/env bash
# Run the next unfilled rows of an experiment list on a GPU machine without network. The recipe's rows
# come first (acdc_lv_recipe_gpu), then the papers' (acdc_gpu, la_gpu):
#
#   benchmarks/gpu/run.sh [MINUTES=9] [LIST=acdc_lv_recipe_gpu]
#
# Installs the wheels and unpacks the data of .gpu/ (that of the list's first word, acdc or la; see
# setup.sh), runs rows whose result file is not in benchmarks/results/LIST/ for as long as MINUTES
# allows, and leaves new result files there and in $OUT/results.tar where OUT is set. Call it again for
# the next rows; copy the files into benchmarks/results/ of the repository between calls to a machine
# that starts anew.
set -euo pipefail
cd "$(dirname "$0")/../.."
source benchmarks/gpu/setup.sh
minutes=${1:-9}
list=${2:-acdc_lv_recipe_gpu}
setup "${list%%_*}"
python3 benchmarks/experiments/run.py "benchmarks/experiments/$list.yaml" \
  --dataset_dir "$data" --minutes "$minutes" --work /tmp/mixseg-runs || status=$?
if [ -n "${OUT:-}" ]; then
  tar -cf "$OUT/results.tar" -C benchmarks/results "$list" 2>/dev/null || true
  find /tmp/mixseg-runs -name log.txt -exec tail -n 60 {} + > "$OUT/logs.txt" 2>/dev/null || true
fi
exit "${status:-0}"
