r"""Whether stopping early saves the time that it saves in multiply-adds.

Runs a trained cascade on real pictures, with the thresholds for a budget:

    python examples/benchmark_cascade.py --model=runs/demo_ranet/model.keras \
        --dataset=demo --crop_fraction=1

At each batch size, these take turns on the same pictures:
  last             the last exit alone, weights as constants
  all              all exits, weights as constants, as the papers' codes do
  adaptive         `inference.AdaptivePredictor`
  exported_last    the last exit's signature of the SavedModel
  exported_all     the SavedModel's `adaptive` with thresholds of 1, all exits
  exported         its `adaptive_default`

A saving in time counts in full when it is as large as that in multiply-adds.
"""

import json
import os
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
from keras_resadapt import data, export, inference
from keras_resadapt.inference.running.frozen import freeze

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The `.keras` file.", required=True)
flags.DEFINE_string("dataset", "demo", "As for train_ranet.py.")
flags.DEFINE_string("data_dir", None, "As for train_ranet.py.")
flags.DEFINE_float("crop_fraction", 0.875, "As for train_ranet.py.")
flags.DEFINE_float(
    "max_madds", None, "Mean; default: half way between first and last exit."
)
flags.DEFINE_list("batch_sizes", ["1", "16", "128"], "Pictures a pass.")
flags.DEFINE_integer("batches", 8, "Different batches of each size.")
flags.DEFINE_integer("singles", 64, "Different pictures for size 1.")
flags.DEFINE_integer("rounds", 9, "Timed passes of each batch.")
flags.DEFINE_bool("freeze", False, "Export with the weights as constants.")
flags.DEFINE_list("contestants", None, "By default all.")


def contestants(model, thresholds, folder):
    """By name, a function of a batch of images that waits for its answer."""
    size = model.resolution
    spec = [tf.TensorSpec((None, size, size, 3), tf.float32)]
    last = model.operating_points[-1]
    one = freeze(lambda images: model.logits(images, last), spec)
    everything = freeze(lambda images: list(model(images).values()), spec)
    predictor = inference.AdaptivePredictor(model, thresholds)
    path = os.path.join(folder, "1")
    export.export_saved_model(
        model,
        path,
        thresholds=thresholds,
        warmup_batch_sizes=(),
        freeze=FLAGS.freeze,
    )
    exported = tf.saved_model.load(path)
    signatures = exported.signatures
    sure = tf.ones(model.num_exits - 1)

    def wait(outputs):
        for output in tf.nest.flatten(outputs):
            output.numpy()

    functions = {
        "last": lambda images: wait(one(tf.constant(images))),
        "all": lambda images: wait(everything(tf.constant(images))),
        "adaptive": lambda images: predictor.predict(images),
        "exported_last": lambda images: wait(
            signatures[last.name](images=tf.constant(images))
        ),
        "exported_all": lambda images: wait(
            signatures["adaptive"](images=tf.constant(images), thresholds=sure)
        ),
        "exported": lambda images: wait(
            signatures["adaptive_default"](images=tf.constant(images))
        ),
    }
    functions["exported"].keep = exported  # or its functions are collected
    return {name: functions[name] for name in FLAGS.contestants or functions}


def measure(functions, batches, rounds) -> dict[str, float]:
    """Mean over the batches of the median milliseconds of a pass."""
    times = {name: [[] for _ in batches] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            for number, images in enumerate(batches):
                start = time.perf_counter()
                function(images)
                if turn:
                    milliseconds = 1e3 * (time.perf_counter() - start)
                    times[name][number].append(milliseconds)
    return {
        name: statistics.mean(map(statistics.median, of_batches))
        for name, of_batches in times.items()
    }


def main(_):
    model = keras.models.load_model(FLAGS.model)
    size = model.resolution

    def batches(split, batch_size):
        source = data.load_source(FLAGS.dataset, split, FLAGS.data_dir)
        if split == "train":
            _, source = source.hold_out(0.1)
        return data.evaluation_batches(
            source, batch_size, size, crop_fraction=FLAGS.crop_fraction
        )

    held_out = inference.collect_logits(model, batches("train", 250))
    budget = FLAGS.max_madds or np.mean([held_out.madds[0], held_out.madds[-1]])
    thresholds = inference.calibrate(held_out, max_madds=budget, method="geometric")
    predictor = inference.AdaptivePredictor(model, thresholds)
    rows = model.profile()
    print(
        f"exits {[f'{row.madds / 1e6:.1f}M' for row in rows]}, the last "
        f"alone {rows[-1].standalone_madds / 1e6:.1f}M"
    )
    with tempfile.TemporaryDirectory() as folder:
        functions = contestants(model, thresholds, folder)
        for batch_size in [int(b) for b in FLAGS.batch_sizes]:
            count = FLAGS.singles if batch_size == 1 else FLAGS.batches
            chosen = [
                images.numpy()
                for images, _ in batches("validation", batch_size).take(count)
            ]
            madds = np.mean([predictor.predict(x).madds.mean() for x in chosen])
            times = measure(functions, chosen, FLAGS.rounds)
            result = {k: round(v, 3) for k, v in times.items()}
            for name, last, everything in (
                ("adaptive", "last", "all"),
                ("exported", "exported_last", "exported_all"),
            ):
                for base, full in (
                    (last, rows[-1].standalone_madds),
                    (everything, rows[-1].madds),
                ):
                    if not {name, base} <= times.keys():
                        continue
                    saved = 1 - times[name] / times[base]
                    share = saved / (1 - madds / full)
                    result[f"{name} against {base}"] = (
                        f"{saved:.0%} of the time, "
                        f"{1 - madds / full:.0%} of the MAdds: {share:.2f}"
                    )
            print(batch_size, json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    app.run(main)
