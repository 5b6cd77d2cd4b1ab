#!/bin/sh
# Trains, exports and runs an RS-Net on the demo set:
#   sh examples/quickstart.sh [FOLDER]
# Creates a virtual environment if none is active, installs the package, trains an
# RS-Net at three resolutions, exports it, and runs the exported model. Takes about
# five minutes on two cores once everything is installed.
set -eu
cd "$(dirname "$0")/.."
OUT=${1:-runs/quickstart}

if [ -e "$OUT/served/demo/1" ]; then
    echo "$OUT is finished. For another run: sh examples/quickstart.sh FOLDER" >&2
    exit 1
fi
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || python3 -m venv .venv
    . .venv/bin/activate
fi
echo "Installing (TensorFlow is large: several minutes the first time) ..."
python -m pip install --quiet .

export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
# --resume continues an interrupted quickstart.
python examples/train_rsnet.py --dataset=demo --resolutions=48,32,16 \
    --crop=pad --crop_fraction=1 --epochs=10 --batch_size=64 \
    --learning_rate=0.2 --warmup_epochs=1 --output_dir="$OUT" --resume
python examples/export_savedmodel.py --model="$OUT/model.keras" \
    --output="$OUT/served/demo/1" --class_names="$OUT/class_names.txt" \
    --crop_fraction=1
python examples/run_savedmodel.py "$OUT/served/demo/1" "$OUT"/samples/*

cat <<END

Done. Results:
  $OUT/accuracy_cost.png   accuracy against cost, one point per resolution
  $OUT/table.json          the same numbers
  $OUT/served/demo/1       the SavedModel, for TensorFlow Serving
Next:
  train on your own images python examples/train_rsnet.py --dataset=FOLDER \\
                             --model=resnet18 --resolutions=224,160,96 \\
                             --output_dir=runs/mine
                           (FOLDER has train/CLASS/*.jpg and val/CLASS/*.jpg)
  all options              python examples/train_rsnet.py --help
  send requests to a server python examples/serving_client.py --help
END
