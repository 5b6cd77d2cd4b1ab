r"""Exports a trained network as a SavedModel for TensorFlow Serving.

    python examples/export_savedmodel.py \
        --model=pets.keras --output=served/pets/1 --class_names=pets.txt

TensorFlow Serving reads `<base>/<model>/<version>`. The version, an integer, is
the folder to write. A running server loads a new version when it appears.
"""

import os

import command_line  # first: it silences TensorFlow
from absl import flags
from tables import print_table

from keras_resadapt import data, export, inference

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Required. The `.keras` file.", required=True)
flags.DEFINE_string(
    "output", None, "Required. The new folder, such as served/pets/1.", required=True
)
flags.DEFINE_string(
    "class_names", None, "A text file with one class name per line, in label order."
)
flags.DEFINE_float(
    "crop_fraction",
    0.875,
    "Encoded images: the resolution divided by the short side of the resized image, "
    "of which the centre is cropped.",
    lower_bound=0.01,
    upper_bound=1.0,
)
flags.DEFINE_multi_integer(
    "warmup_batch_size",
    [1],
    "Batch size of the warm-up requests; repeat the flag for several.",
    lower_bound=1,
)
flags.DEFINE_string(
    "thresholds",
    None,
    "Cascades: the file of thresholds for the signature `adaptive_default`.",
)
flags.DEFINE_bool(
    "freeze",
    False,
    "Export constant weights, which are faster, and are stored in each signature.",
)
flags.DEFINE_bool(
    "full_masks",
    False,
    "Networks with masks of objects: also return masks at the size of the images.",
)


def folder_bytes(path: str) -> int:
    """Returns the size of all files in a folder, in bytes."""
    return sum(
        os.path.getsize(os.path.join(folder, file))
        for folder, _, files in os.walk(path)
        for file in files
    )


def print_signatures(description: dict) -> None:
    """Prints the signatures and their cost, one row per operating point.

    Args:
        description: What `export_saved_model` returns.
    """
    rows = [
        [
            ", ".join(point["signatures"] + point["encoded_signatures"]),
            f"{point['madds'] / 1e6:.1f}",
            f"{point['params'] / 1e6:.2f}",
        ]
        for point in description["operating_points"]
    ]
    if adaptive := description.get("adaptive"):
        least, *_, most = (madds / 1e6 for madds in adaptive["exit_madds"])
        names = adaptive["signatures"] + adaptive["encoded_signatures"]
        rows.append([", ".join(names), f"{least:.1f} to {most:.1f}", ""])
    print_table(["signatures", "MAdds (M)", "params (M)"], rows)


def next_steps(output: str) -> str:
    """Returns how to serve the folder and send it a request."""
    folder, version = os.path.split(os.path.abspath(output))
    if not version.isdecimal():
        return (
            "TensorFlow Serving reads folders whose names are integers: "
            f"rename {version!r}, or export to {version}/1."
        )
    name = os.path.basename(folder)
    return f"""To serve it (gRPC on port 8500, REST on port 8501):
  docker run --rm -p 8500:8500 -p 8501:8501 \\
    -v "{folder}:/models/{name}" -e MODEL_NAME={name} tensorflow/serving
To send a request:
  python examples/serving_client.py --address=localhost:8500 \\
    --model={name} --images image.jpg"""


def main():
    names = FLAGS.class_names and data.read_class_names(FLAGS.class_names)
    thresholds = FLAGS.thresholds and inference.Thresholds.load(FLAGS.thresholds)
    model = command_line.load_network("model", FLAGS.model, compile=False)
    description = export.export_saved_model(
        model,
        FLAGS.output,
        class_names=names,
        crop_fraction=FLAGS.crop_fraction,
        warmup_batch_sizes=FLAGS.warmup_batch_size,
        thresholds=thresholds,
        freeze=FLAGS.freeze,
        full_masks=FLAGS.full_masks,
    )
    print_signatures(description)
    size = folder_bytes(FLAGS.output) / 1e6
    print(f"Wrote {FLAGS.output}, {size:.1f} MB.\n\n{next_steps(FLAGS.output)}")


if __name__ == "__main__":
    command_line.run(main)
