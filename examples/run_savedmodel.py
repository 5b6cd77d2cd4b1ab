"""Asks an exported SavedModel about pictures, with TensorFlow alone.

    python examples/ask_savedmodel.py runs/quickstart/served/demo/1 a.png b.jpg

Every signature gets one request: the encoded ones the files as they are, the
others their pixels. For a cascade, `adaptive_default` also says at which exit
it was sure.
"""

import argparse
import json
import os
import sys

import tensorflow as tf


def ask(folder: str, pictures: list[str]) -> dict[str, list[tuple[str, float]]]:
    """Best class and its probability for each picture, by signature."""
    model = tf.saved_model.load(folder)
    description = os.path.join(folder, "assets.extra", "operating_points.json")
    with open(description, encoding="utf-8") as file:
        description = json.load(file)
    points = description["operating_points"]
    encoded = [tf.io.read_file(path) for path in pictures]
    answers = {}
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
                answer = model.signatures[name](images=images)
                answers[name] = [
                    (_text(classes[0]), float(max(probabilities)))
                    for classes, probabilities in zip(
                        answer["classes"].numpy(),
                        answer["probabilities"].numpy(),
                    )
                ]
    if "adaptive_default_encoded" in model.signatures:
        answer = model.signatures["adaptive_default_encoded"](images=tf.stack(encoded))
        answers["adaptive_default_encoded"] = [
            (f"{_text(classes[0])} at exit {exit}", float(max(probabilities)))
            for classes, probabilities, exit in zip(
                answer["classes"].numpy(),
                answer["probabilities"].numpy(),
                answer["exits"].numpy(),
            )
        ]
    return answers


def _text(name) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="the SavedModel")
    parser.add_argument("pictures", nargs="+", help="JPEG or PNG files")
    arguments = parser.parse_args(arguments)
    answers = ask(arguments.folder, arguments.pictures)
    assert "keras_resadapt" not in sys.modules
    print("\nPictures:", *map(os.path.basename, arguments.pictures))
    for signature, rows in answers.items():
        told = ", ".join(f"{name} ({share:.0%})" for name, share in rows)
        print(f"{signature:24}{told}")


if __name__ == "__main__":
    main()
