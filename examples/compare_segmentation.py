r"""Compares RS-Net for segmentation with its baselines (figure 8 of the paper).

Trains the following networks, a ResNet-18 with a light-weight RefineNet, for the
same epochs and on the same images:
  rsnet      all resolutions in parallel, with ensemble distillation
  parallel   all resolutions in parallel, without distillation
  inet_R     one individual network for each resolution R

and evaluates each network at all resolutions, on whole images against masks of the
original size. Each finished training is a line of the results file, and the same
command continues an interrupted comparison. Prints tables, and writes a plot to the
folder of the results file.

    python examples/compare_segmentation.py --dataset=camvid_seg11 --data_dir=DIR \
        --resolutions=160,96,64 --results=runs/segmentation.jsonl
"""

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
from keras_resadapt import OperatingPoint, analysis, data, training

FLAGS = flags.FLAGS
shared_flags.define_integers(
    "resolutions", [160, 96, 64], "Resolutions in pixels, the largest first."
)
shared_flags.define_integers("filters", [64, 128, 256, 512], "Channels per stage.")
flags.DEFINE_integer("channels", 256, "Channels of the decoder.", lower_bound=1)
flags.DEFINE_float("dropout", 0.0, "Dropout of the decoder.", 0.0, 0.99)
flags.DEFINE_integer("epochs", 20, "Epochs per training.", lower_bound=1)
flags.DEFINE_integer("batch_size", 8, "Images per step.", lower_bound=1)
flags.DEFINE_float(
    "learning_rate", 0.02, "Initial learning rate of the cosine schedule.", 0.0
)
shared_flags.define_integers(
    "seeds", [0], "Seeds; the comparison is repeated for each.", minimum=0
)
flags.DEFINE_list("runs", ["rsnet", "parallel", "inet"], "The networks to train.")
flags.DEFINE_string("save_to", None, "A folder for the trained networks.")
flags.DEFINE_string("results", "runs/segmentation.jsonl", "The results.")

SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iou")


def build_model(num_classes, resolutions, distillation) -> keras_resadapt.RSNet:
    """Builds the network that the flags describe."""
    return keras_resadapt.RSRefineNet18(
        num_classes,
        resolutions,
        distillation=distillation,
        filters=FLAGS.filters,
        channels=FLAGS.channels,
        dropout=FLAGS.dropout,
        extrapolate=True,
    )


def train(resolutions, distillation, seed, source):
    """Returns a trained network, and its training loss in the last epoch."""
    keras.utils.set_random_seed(seed)
    model = build_model(source.num_classes, resolutions, distillation)
    steps = source.steps_per_epoch(FLAGS.batch_size)
    recipe = training.Recipe(
        FLAGS.epochs,
        FLAGS.learning_rate,
        weight_decay=1e-4,
        batch_size=FLAGS.batch_size,
        warmup_epochs=1,
    )
    model.compile(recipe.optimizer(steps, FLAGS.batch_size))
    batches = data.segmentation_training_batches(
        source, FLAGS.batch_size, resolutions[0], seed=seed
    )
    history = model.fit(batches, epochs=FLAGS.epochs, steps_per_epoch=steps, verbose=2)
    return model, history.history["loss"][-1]


def evaluate(model, source) -> dict[str, dict[str, float]]:
    """Returns the scores at each resolution, each from one pass per image."""
    results = {}
    for resolution in FLAGS.resolutions:
        point = OperatingPoint(resolution)
        (metric,) = model.task.make_metrics(None)
        batches = data.segmentation_evaluation_batches(source, 8, resolution)
        for images, masks in batches:
            logits = model.logits(images, point)
            metric.update_state(masks, model.task.align(logits, masks.shape[1:3]))
        results[point.name] = {k: float(v) for k, v in metric.result().items()}
    return results


def run(name, resolutions, distillation, seed, sources) -> dict:
    """Trains and evaluates a network; returns its line of the results file."""
    print(f"=== {name}, seed {seed} ===", flush=True)
    model, loss = train(resolutions, distillation, seed, sources["train"])
    if FLAGS.save_to:
        os.makedirs(FLAGS.save_to, exist_ok=True)
        model.save(os.path.join(FLAGS.save_to, f"{name}_{seed}.keras"))
    return {
        "run": name,
        "seed": seed,
        "epochs": FLAGS.epochs,
        "scores": evaluate(model, sources["validation"]),
        "ensemble_weights": model.ensemble_weights.tolist(),
        "final_loss": loss,
    }


def summarize(rows, profile) -> None:
    """Prints one table per score, and plots mean IoU against cost."""
    names = [row.point.name for row in profile]
    for score in SCORES:
        columns = collect_columns(
            rows, names, lambda row, name: row["scores"][name][score]
        )
        print(f"\n{score} in percent:")
        print_table(
            ["operating point", *columns],
            [
                [n, *(mean_and_spread(c.get(n, [])) for c in columns.values())]
                for n in names
            ],
        )
    madds = {row.point.name: row.madds for row in profile}
    curves = {
        column: [(n, madds[n], statistics.mean(v) / 100) for n, v in cells.items()]
        for column, cells in columns.items()
    }
    plot = os.path.splitext(FLAGS.results)[0] + ".png"
    analysis.plot_accuracy_cost(curves, plot, title=FLAGS.dataset, metric="mean IoU")
    print(f"The plot is {plot}")


def main():
    resolutions = tuple(FLAGS.resolutions)
    sources = {
        split: shared_flags.load_source(split) for split in ("train", "validation")
    }
    os.makedirs(os.path.dirname(FLAGS.results) or ".", exist_ok=True)
    for seed in FLAGS.seeds:
        for name, trained, distillation in planned_runs(FLAGS.runs, resolutions):
            done = {(row["run"], row["seed"]) for row in read_rows(FLAGS.results)}
            if (name, seed) in done:
                continue
            row = run(name, trained, distillation, seed, sources)
            append_row(FLAGS.results, row)
            print(json.dumps(row["scores"]), flush=True)
    model = build_model(sources["train"].num_classes, resolutions, "none")
    summarize(read_rows(FLAGS.results), model.profile())


if __name__ == "__main__":
    command_line.run(main)
