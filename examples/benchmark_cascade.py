r"""Measures how much time a cascade saves by early exits.

Runs a trained cascade on real images, with thresholds calibrated for a budget:

    python examples/benchmark_cascade.py --model=runs/demo_ranet/model.keras \
        --dataset=demo --crop_fraction=1

At each batch size, the following take turns on the same images:
  last             the last exit alone, with constant weights
  all              all exits, with constant weights, as in the papers' code
  adaptive         `inference.AdaptivePredictor`
  exported_last    the signature of the last exit in the SavedModel
  exported_all     the SavedModel's `adaptive` with all thresholds 1: all exits
  exported         the SavedModel's `adaptive_default`

The last column of the second table divides the fraction of the time that is saved
by the fraction of the multiply-adds that is saved.
"""

import os
import tempfile

import command_line  # first: it silences TensorFlow
import numpy as np
import shared_flags
import tensorflow as tf
from absl import flags
from tables import print_table

from keras_resadapt import export, inference, timing
from keras_resadapt.inference.running.frozen import freeze

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", None, "Required. The `.keras` file of the cascade.", required=True
)
flags.DEFINE_float(
    "max_madds",
    None,
    "Mean multiply-adds per image for which the thresholds are calibrated; by "
    "default halfway between those of the first and the last exit.",
)
shared_flags.define_integers("batch_sizes", [1, 16, 128], "Images per pass.")
flags.DEFINE_integer(
    "batches", 8, "Number of different batches of each size.", lower_bound=1
)
flags.DEFINE_integer(
    "singles", 64, "Number of different images at batch size 1.", lower_bound=1
)
flags.DEFINE_integer("rounds", 9, "Timed passes of each batch.", lower_bound=1)
flags.DEFINE_bool("freeze", False, "Export with constant weights.")
flags.DEFINE_list("contestants", None, "What to measure; by default everything.")


def contestants(model, thresholds, folder) -> dict:
    """Returns the functions of a batch of images to be measured, by name."""
    size = model.resolution
    spec = [tf.TensorSpec((None, size, size, 3), tf.float32)]
    last = model.operating_points[-1]
    last_exit = freeze(lambda images: model.logits(images, last), spec)
    all_exits = freeze(lambda images: list(model(images).values()), spec)
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
    ones = tf.ones(model.num_exits - 1)

    def wait(outputs):
        for output in tf.nest.flatten(outputs):
            output.numpy()

    functions = {
        "last": lambda images: wait(last_exit(tf.constant(images))),
        "all": lambda images: wait(all_exits(tf.constant(images))),
        "adaptive": lambda images: predictor.predict(images),
        "exported_last": lambda images: wait(
            signatures[last.name](images=tf.constant(images))
        ),
        "exported_all": lambda images: wait(
            signatures["adaptive"](images=tf.constant(images), thresholds=ones)
        ),
        "exported": lambda images: wait(
            signatures["adaptive_default"](images=tf.constant(images))
        ),
    }
    functions["exported"].keep = exported  # or its functions are deleted
    return {name: functions[name] for name in FLAGS.contestants or functions}


def measure(functions, images) -> dict[str, float]:
    """Returns the mean over batches of the median milliseconds of a pass."""
    times = timing.median_times(
        {
            (name, number): lambda function=function, batch=batch: function(batch)
            for name, function in functions.items()
            for number, batch in enumerate(images)
        },
        FLAGS.rounds,
        warmup=1,
    )
    return {
        name: float(np.mean([times[name, number] for number in range(len(images))]))
        for name in functions
    }


def savings(times, madds, last_row) -> list[list[str]]:
    """Returns the rows of the table of what early exits save."""
    rows = []
    for name, last, everything in (
        ("adaptive", "last", "all"),
        ("exported", "exported_last", "exported_all"),
    ):
        for base, full in (
            (last, last_row.standalone_madds),
            (everything, last_row.madds),
        ):
            if not {name, base} <= times.keys():
                continue
            time, work = 1 - times[name] / times[base], 1 - madds / full
            rows.append([f"{name}, {base}", *(f"{x:.0%}" for x in (time, work))])
            rows[-1].append(f"{time / work:.2f}")
    return rows


def batches(model, split: str, batch_size: int) -> tf.data.Dataset:
    """Returns validation images, or held-out training images."""
    source = shared_flags.load_source(split)
    if split == "train":
        _, source = source.hold_out(0.1)
    return shared_flags.evaluation_batches(source, batch_size, model.resolution)


def main():
    model = command_line.load_network("model", FLAGS.model)
    held_out = inference.collect_logits(model, batches(model, "train", 250))
    budget = FLAGS.max_madds or np.mean([held_out.madds[0], held_out.madds[-1]])
    thresholds = inference.calibrate(held_out, max_madds=budget, method="geometric")
    predictor = inference.AdaptivePredictor(model, thresholds)
    rows = model.profile()
    print_table(
        ["exit", "MAdds (M)", "MAdds of this exit alone (M)"],
        [
            [
                row.point.name,
                f"{row.madds / 1e6:.1f}",
                f"{row.standalone_madds / 1e6:.1f}",
            ]
            for row in rows
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        functions = contestants(model, thresholds, folder)
        for batch_size in FLAGS.batch_sizes:
            count = FLAGS.singles if batch_size == 1 else FLAGS.batches
            chosen = [
                images.numpy()
                for images, _ in batches(model, "validation", batch_size).take(count)
            ]
            madds = np.mean([predictor.predict(x).madds.mean() for x in chosen])
            times = measure(functions, chosen)
            print(f"Batch size {batch_size}, {madds / 1e6:.1f}M MAdds per image:")
            print_table(
                ["contestant", "ms per batch"],
                [[name, f"{ms:.3f}"] for name, ms in times.items()],
            )
            print_table(
                ["early exits, baseline", "time saved", "MAdds saved", "ratio"],
                savings(times, madds, rows[-1]),
            )


if __name__ == "__main__":
    command_line.run(main)
