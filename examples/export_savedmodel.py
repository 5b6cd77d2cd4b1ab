r"""Exports a trained classifier as a SavedModel for TensorFlow Serving.

    python examples/export_savedmodel.py \
        --model=pets.keras --output=served/pets/1 --class_names=pets.txt

TensorFlow Serving wants `<base>/<model>/<version>`: the version, an integer,
is the folder to write. A server that runs takes up a higher version by itself.
"""

import os

import keras
from absl import app, flags, logging

from keras_resadapt.export import export_saved_model
from keras_resadapt.inference import Thresholds

_MODEL = flags.DEFINE_string("model", None, "The `.keras` file to export.")
_OUTPUT = flags.DEFINE_string("output", None, "The new folder, such as served/pets/1.")
_CLASS_NAMES = flags.DEFINE_string(
    "class_names", None, "Text file with the name of a class a line."
)
_CROP_FRACTION = flags.DEFINE_float(
    "crop_fraction",
    0.875,
    "Encoded pictures: resolution divided by the short side before the crop.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_WARMUP_BATCH_SIZES = flags.DEFINE_multi_integer(
    "warmup_batch_size",
    [1],
    "Batch size of the warm-up requests; repeat the flag for several.",
    lower_bound=1,
)
_THRESHOLDS = flags.DEFINE_string(
    "thresholds",
    None,
    "For a cascade: the file of `Thresholds.save`, for `adaptive_default`.",
)
_FREEZE = flags.DEFINE_bool(
    "freeze",
    False,
    "Weights as constants: faster, stored once for each signature.",
)


def read_class_names(path: str) -> list[str]:
    """Reads the name of a class a line, in the order of the logits."""
    with open(path, encoding="utf-8") as stream:
        return [line.strip() for line in stream.read().splitlines()]


def folder_bytes(path: str) -> int:
    """Size of all files in a folder, in bytes."""
    return sum(
        os.path.getsize(os.path.join(folder, file))
        for folder, _, files in os.walk(path)
        for file in files
    )


def table(description: dict) -> str:
    """The signatures and their cost, a line an operating point.

    Args:
        description: What `export_saved_model` returns.
    """
    lines = [f"{'MAdds (M)':>10} {'params (M)':>10}  signatures"]
    for point in description["operating_points"]:
        names = point["signatures"] + point["encoded_signatures"]
        lines.append(
            f"{point['madds'] / 1e6:10.1f} {point['params'] / 1e6:10.2f}  "
            + ", ".join(names)
        )
    if adaptive := description.get("adaptive"):
        least, *_, most = (madds / 1e6 for madds in adaptive["exit_madds"])
        names = adaptive["signatures"] + adaptive["encoded_signatures"]
        lines.append(f"{f'{least:.1f} - {most:.1f}':>21}  " + ", ".join(names))
    return "\n".join(lines)


def next_steps(output: str) -> str:
    """How to serve the folder and ask it."""
    folder, version = os.path.split(os.path.abspath(output))
    if not version.isdecimal():
        return (
            "TensorFlow Serving takes a folder whose name is an integer: "
            f"rename {version!r}, or export to {version}/1."
        )
    name = os.path.basename(folder)
    return f"""Serve it (gRPC on port 8500, REST on port 8501):
  docker run --rm -p 8500:8500 -p 8501:8501 \\
    -v "{folder}:/models/{name}" -e MODEL_NAME={name} tensorflow/serving
Ask it:
  python examples/serving_client.py --address=localhost:8500 \\
    --model={name} --images picture.jpg"""


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)  # TensorFlow tells of every file
    names = _CLASS_NAMES.value and read_class_names(_CLASS_NAMES.value)
    model = keras.models.load_model(_MODEL.value, compile=False, safe_mode=True)
    description = export_saved_model(
        model,
        _OUTPUT.value,
        class_names=names,
        crop_fraction=_CROP_FRACTION.value,
        warmup_batch_sizes=_WARMUP_BATCH_SIZES.value,
        thresholds=_THRESHOLDS.value and Thresholds.load(_THRESHOLDS.value),
        freeze=_FREEZE.value,
    )
    print(table(description))
    size = folder_bytes(_OUTPUT.value) / 1e6
    print(f"\nWrote {_OUTPUT.value}, {size:.1f} MB.\n")
    print(next_steps(_OUTPUT.value))


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "output"])
    app.run(main)
