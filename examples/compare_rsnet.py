r"""Compares RS-Net with its baselines on a data set (the columns of its table 2).

Trains the following networks, for the same epochs and on the same images:
  rsnet      all resolutions in parallel, with ensemble distillation
  parallel   all resolutions in parallel, without distillation
  inet_R     one individual network for each resolution R

and evaluates each network at all resolutions. Each finished training is a line of
the results file, and the same command continues an interrupted comparison. Prints
a table with the mean and the standard deviation over the seeds, and writes a plot
to the folder of the results file.

    python examples/compare_rsnet.py --dataset=cifar10 --data_dir=DIR \
        --resolutions=32,24,16 --stem=small --results=runs/compare.jsonl

With --bits=2/32 or 2/2, all networks are quantized by LQ-Nets and trained with its
recipe (the columns of table 3).
"""

import dataclasses
import json
import os
import statistics

import command_line  # first: it silences TensorFlow
import keras
import shared_flags
from absl import flags
from comparison import (
    append_row,
    collect_columns,
    mean_and_spread,
    planned_runs,
    read_rows,
)
from tables import print_table

import keras_resadapt
from keras_resadapt import analysis, data, quantization, training

FLAGS = flags.FLAGS
shared_flags.define_integers(
    "resolutions", [64, 48, 32], "Resolutions in pixels, the largest first."
)
shared_flags.define_integers("filters", [64, 128, 256, 512], "Channels per stage.")
shared_flags.define_integers("depths", [2, 2, 2, 2], "Blocks per stage.")
flags.DEFINE_enum("stem", "imagenet", ["imagenet", "small"], "The first layers.")
flags.DEFINE_enum("crop", "random_resized", ["random_resized", "pad"], "Training crop.")
flags.DEFINE_float(
    "min_area",
    0.08,
    "Smallest area of a random resized crop, as a fraction of the image.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_integer("epochs", 20, "Epochs per training.", lower_bound=1)
flags.DEFINE_integer("batch_size", 128, "Images per step.", lower_bound=1)
flags.DEFINE_float(
    "learning_rate",
    0.05,
    "Initial learning rate of the cosine schedule, for --bits=32/32 only.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "bits", "32/32", ["32/32", "2/32", "2/2"], "Bits of weights and activations."
)
flags.DEFINE_bool(
    "private_ranges",
    True,
    "With --bits=2/2, use one basis per resolution instead of one for all.",
)
shared_flags.define_integers(
    "seeds", [0], "Seeds; the comparison is repeated for each.", minimum=0
)
flags.DEFINE_list("runs", ["rsnet", "parallel", "inet"], "The networks to train.")
flags.DEFINE_string("save_to", None, "A folder for the trained networks.")
flags.DEFINE_string("results", "runs/compare.jsonl", "The results, lines of JSON.")


def build_model(num_classes, resolutions, distillation):
    """Builds an RS-Net-18, quantized as `--bits` says."""
    bits = [int(b) for b in FLAGS.bits.split("/")]
    scheme = None
    if bits[0] < 32:
        scheme = quantization.LearnedQuantization(*bits, FLAGS.private_ranges)
    return keras_resadapt.RSNet18(
        num_classes,
        resolutions,
        distillation=distillation,
        depths=FLAGS.depths,
        filters=FLAGS.filters,
        stem=FLAGS.stem,
        extrapolate=True,
        quantization=scheme,
    )


def make_optimizer(steps):
    """Returns SGD with a cosine, or LQ-Nets' recipe in as many epochs."""
    if FLAGS.bits == "32/32":
        schedule = keras.optimizers.schedules.CosineDecay(
            FLAGS.learning_rate, FLAGS.epochs * steps
        )
        return training.SGD(schedule, momentum=0.9, weight_decay=1e-4)
    recipe = dataclasses.replace(training.RSNET_LEARNED, epochs=FLAGS.epochs)
    return recipe.optimizer(steps, FLAGS.batch_size)


def train(resolutions, distillation, seed, source):
    """Trains a network.

    Returns:
        The network, and its training loss in the last epoch.
    """
    keras.utils.set_random_seed(seed)
    model = build_model(source.num_classes, resolutions, distillation)
    steps = source.steps_per_epoch(FLAGS.batch_size)
    model.compile(make_optimizer(steps), metrics=["accuracy"])
    batches = data.training_batches(
        source,
        FLAGS.batch_size,
        resolutions[0],
        crop=FLAGS.crop,
        area_range=(FLAGS.min_area, 1.0),
        seed=seed,
    )
    history = model.fit(
        batches,
        epochs=FLAGS.epochs,
        steps_per_epoch=steps,
        verbose=2,
    )
    return model, history.history["loss"][-1]


def evaluate(model, source) -> dict[str, float]:
    """Returns the accuracy at each resolution, and of the ensemble."""
    accuracies = {f"r{r}": _accuracy(model, source, r) for r in FLAGS.resolutions}
    if len(model.resolutions) > 1:
        batches = shared_flags.evaluation_batches(
            source, FLAGS.batch_size, model.resolutions
        )
        logs = model.evaluate(batches, verbose=0, return_dict=True)
        accuracies["ensemble"] = logs["ensemble_accuracy"]
    return accuracies


def _accuracy(model, source, resolution):
    """Returns the top-1 accuracy of one pass at a resolution."""
    metric = keras.metrics.SparseCategoricalAccuracy()
    batches = shared_flags.evaluation_batches(source, FLAGS.batch_size, resolution)
    for images, labels in batches:
        metric.update_state(labels, model.predict_on_batch(images))
    return float(metric.result())


def summarize(rows, profile):
    """Prints the tables, and plots accuracy against cost."""
    names = [row.point.name for row in profile]
    accuracies = collect_columns(rows, names, lambda row, name: row["accuracies"][name])
    print("\nTop-1 accuracy in percent:")
    print_table(
        ["operating point", *accuracies],
        [
            [
                name,
                *(
                    mean_and_spread(cells.get(name, []))
                    for cells in accuracies.values()
                ),
            ]
            for name in names
        ],
    )
    print_table(
        ["network", "seed", "ensemble", "alpha"],
        [
            [
                row["run"],
                row["seed"],
                f"{100 * row['accuracies']['ensemble']:.1f}",
                " ".join(f"{weight:.2f}" for weight in row["ensemble_weights"]),
            ]
            for row in rows
            if "ensemble" in row["accuracies"]
        ],
    )
    madds = {row.point.name: row.madds for row in profile}
    curves = {
        column: [
            (name, madds[name], statistics.mean(values) / 100)
            for name, values in cells.items()
        ]
        for column, cells in accuracies.items()
    }
    plot = os.path.splitext(FLAGS.results)[0] + ".png"
    analysis.plot_accuracy_cost(curves, plot, title=FLAGS.dataset)
    print(f"The plot is {plot}")


def run(name, resolutions, distillation, seed, sources) -> dict:
    """Trains and evaluates a network.

    Returns:
        Its line of the results file.
    """
    print(f"=== {name}, seed {seed} ===", flush=True)
    model, loss = train(resolutions, distillation, seed, sources["train"])
    if FLAGS.save_to:
        os.makedirs(FLAGS.save_to, exist_ok=True)
        model.save(os.path.join(FLAGS.save_to, f"{name}_{seed}.keras"))
    return {
        "run": name,
        "seed": seed,
        "epochs": FLAGS.epochs,
        "accuracies": evaluate(model, sources["validation"]),
        "ensemble_weights": model.ensemble_weights.tolist(),
        "final_loss": loss,
    }


def main():
    resolutions = tuple(FLAGS.resolutions)
    sources = {
        split: shared_flags.load_source(split, cache=True)
        for split in ("train", "validation")
    }
    os.makedirs(os.path.dirname(FLAGS.results) or ".", exist_ok=True)
    finished = {(row["run"], row["seed"]) for row in read_rows(FLAGS.results)}
    for seed in FLAGS.seeds:
        for name, trained, distillation in planned_runs(FLAGS.runs, resolutions):
            if (name, seed) in finished:
                continue
            row = run(name, trained, distillation, seed, sources)
            print(json.dumps(row), flush=True)
            append_row(FLAGS.results, row)
    num_classes = sources["train"].num_classes
    profile = build_model(num_classes, resolutions, "none").profile()
    summarize(read_rows(FLAGS.results), profile)


if __name__ == "__main__":
    command_line.run(main)
