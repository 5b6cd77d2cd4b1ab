"""Runs an exported SavedModel on images, with TensorFlow alone.

    python examples/run_savedmodel.py runs/quickstart/served/demo/1 a.png b.jpg

Each signature is run once. Signatures for encoded images read the files, all
others read their pixels. For a cascade, `adaptive_default` also returns the exit
of each image.
"""

import argparse
import json
import os
import sys

import quiet_tensorflow  # noqa: F401, first: it silences TensorFlow
import tensorflow as tf

# The best class of each image, and its probability
Predictions = list[tuple[str, float]]


def predict(folder: str, paths: list[str]) -> dict[str, Predictions]:
    """Runs all signatures of a SavedModel.

    Args:
        folder: The SavedModel.
        paths: JPEG or PNG files.

    Returns:
        The predictions by signature.
    """
    model = tf.saved_model.load(folder)
    description = os.path.join(folder, "assets.extra", "operating_points.json")
    with open(description, encoding="utf-8") as file:
        points = json.load(file)["operating_points"]
    encoded = [tf.io.read_file(path) for path in paths]
    predictions = {}
    for point in points:
        size = (point["resolution"], point["resolution"])
        pixels = tf.stack(
            [
                tf.image.resize(
                    tf.io.decode_image(data, 3, expand_animations=False),
                    size,
                    antialias=True,
                )
                for data in encoded
            ]
        )
        for names, images in (
            (point["signatures"], pixels),
            (point["encoded_signatures"], tf.stack(encoded)),
        ):
            for name in names:
                predictions[name] = run(model.signatures[name], images)
    name = "adaptive_default_encoded"
    if name in model.signatures:
        predictions[name] = run(model.signatures[name], tf.stack(encoded))
    return predictions


def run(signature, images: tf.Tensor) -> Predictions:
    """Runs one signature."""
    outputs = {name: value.numpy() for name, value in signature(images=images).items()}
    names = [_text(classes[0]) for classes in outputs["classes"]]
    if "exits" in outputs:
        names = [f"{n} at exit {exit}" for n, exit in zip(names, outputs["exits"])]
    return list(zip(names, outputs["probabilities"].max(axis=1).tolist()))


def _text(name) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="the SavedModel")
    parser.add_argument("images", nargs="+", help="JPEG or PNG files")
    arguments = parser.parse_args(arguments)
    try:
        predictions = predict(arguments.folder, arguments.images)
    except (OSError, tf.errors.OpError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print("\nImages:", *map(os.path.basename, arguments.images))
    for signature, rows in predictions.items():
        cells = ", ".join(f"{name} ({share:.0%})" for name, share in rows)
        print(f"{signature:24} {cells}")


if __name__ == "__main__":
    main()
