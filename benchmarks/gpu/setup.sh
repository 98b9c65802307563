# Sourced by run.sh and nnunet.sh: `setup NAME` installs the wheels of .gpu/ (see pack.sh), makes the
# checkout importable as mixseg and unpacks the data NAME (acdc or la), as far as its archives are
# there, into $data.
setup() {
  local site=${MIXSEG_GPU_SITE:-/tmp/mixseg-site} marker archive done_mark
  data=${MIXSEG_GPU_DATA:-/tmp/mixseg-$1}
  if [ ! -d "$site/monai" ]; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
      --target "$site" .gpu/wheels/*.whl
  fi
  mkdir -p "$site/mixseg" "$data"
  for marker in */py.typed; do
    ln -sfn "$PWD/${marker%/*}" "$site/mixseg/${marker%/*}"
  done
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
  for archive in .gpu/"$1".[0-9].tar.xz; do
    done_mark="$data/.$(basename "$archive").unpacked"
    if [ -e "$archive" ] && [ ! -e "$done_mark" ]; then
      tar -C "$data" -xJf "$archive"
      find "$data" -name '*.nii' -print0 | xargs -0 -P 16 -n 10 gzip -1
      touch "$done_mark"
    fi
  done
  python3 -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
}
