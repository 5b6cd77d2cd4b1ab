r"""RS-Net against its baselines on one data set (RS-Net, table 2's columns).

Trains, with the same epochs and the same pictures:
  rsnet      all resolutions in parallel, with ensemble distillation
  parallel   all resolutions in parallel, without distillation
  inet_R     one network a resolution R, trained alone

and evaluates each at every resolution; the largest I-Net at the others too.
Every finished run is a line of the results file, so that an interrupted
comparison goes on where it was. At the end comes a table (mean and standard
deviation over the seeds), and a plot beside the results.

    python examples/compare_rsnet.py --dataset=cifar10 --data_dir=DIR \
        --resolutions=32,24,16 --stem=small --results=runs/compare.jsonl

With --bits=2/32 or 2/2 all of them are quantized by LQ-Nets and trained by its
recipe (table 3's columns).
"""

import dataclasses
import json
import os
import statistics

import keras
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import analysis, data, quantization, training

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "demo", "As for train_rsnet.py.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data sets.")
flags.DEFINE_list("resolutions", ["64", "48", "32"], "In pixels.")
flags.DEFINE_list("filters", ["64", "128", "256", "512"], "Channels a stage.")
flags.DEFINE_list("depths", ["2", "2", "2", "2"], "Blocks a stage.")
flags.DEFINE_enum("stem", "imagenet", ["imagenet", "small"], "The stem.")
flags.DEFINE_enum("crop", "random_resized", ["random_resized", "pad"], "Crop.")
flags.DEFINE_float("min_area", 0.08, "Smallest share of the random crop.")
flags.DEFINE_float("crop_fraction", 0.875, "Of the evaluation's resizing.")
flags.DEFINE_integer("epochs", 20, "Epochs a run.")
flags.DEFINE_integer("batch_size", 128, "Pictures a step.")
flags.DEFINE_float(
    "learning_rate", 0.05, "Annealed to 0 by a cosine; --bits=32/32 only."
)
flags.DEFINE_enum(
    "bits", "32/32", ["32/32", "2/32", "2/2"], "Of weights and activations."
)
flags.DEFINE_bool(
    "private_ranges", True, "2/2: one basis a resolution, not one for all."
)
flags.DEFINE_list("seeds", ["0"], "One comparison each.")
flags.DEFINE_list("runs", ["rsnet", "parallel", "inet"], "What to train.")
flags.DEFINE_string("save_to", None, "A folder for the trained networks.")
flags.DEFINE_string("results", "runs/compare.jsonl", "Lines of JSON.")


def build_model(num_classes, resolutions, distillation):
    bits = [int(b) for b in FLAGS.bits.split("/")]
    scheme = None
    if bits[0] < 32:
        scheme = quantization.LearnedQuantization(*bits, FLAGS.private_ranges)
    return keras_resadapt.RSNet18(
        num_classes,
        resolutions,
        distillation=distillation,
        depths=[int(d) for d in FLAGS.depths],
        filters=[int(f) for f in FLAGS.filters],
        stem=FLAGS.stem,
        extrapolate=True,
        quantization=scheme,
    )


def make_optimizer(steps):
    """SGD with a cosine, or LQ-Nets' recipe in as many epochs."""
    if FLAGS.bits == "32/32":
        schedule = keras.optimizers.schedules.CosineDecay(
            FLAGS.learning_rate, FLAGS.epochs * steps
        )
        return training.SGD(schedule, momentum=0.9, weight_decay=1e-4)
    recipe = dataclasses.replace(training.RSNET_LEARNED, epochs=FLAGS.epochs)
    return recipe.optimizer(steps, FLAGS.batch_size)


def train_and_evaluate(resolutions, distillation, seed, train, validation):
    """Trains one network; returns its accuracies and ensemble weights, and
    the network."""
    keras.utils.set_random_seed(seed)
    model = build_model(train.num_classes, resolutions, distillation)
    steps = train.steps_per_epoch(FLAGS.batch_size)
    model.compile(make_optimizer(steps), metrics=["accuracy"])
    batches = data.training_batches(
        train,
        FLAGS.batch_size,
        resolutions[0],
        crop=FLAGS.crop,
        area_range=(FLAGS.min_area, 1.0),
        seed=seed,
    )
    history = model.fit(batches, epochs=FLAGS.epochs, steps_per_epoch=steps, verbose=2)
    accuracies = {}
    for resolution in [int(r) for r in FLAGS.resolutions]:
        accuracies[f"r{resolution}"] = _accuracy(model, validation, resolution)
    if len(resolutions) > 1:
        logs = model.evaluate(
            data.evaluation_batches(
                validation,
                FLAGS.batch_size,
                resolutions,
                crop_fraction=FLAGS.crop_fraction,
            ),
            verbose=0,
            return_dict=True,
        )
        accuracies["ensemble"] = logs["ensemble_accuracy"]
    return {
        "accuracies": accuracies,
        "ensemble_weights": model.ensemble_weights.tolist(),
        "final_loss": history.history["loss"][-1],
    }, model


def _accuracy(model, validation, resolution):
    """Top-1 accuracy of one pass at one resolution."""
    metric = keras.metrics.SparseCategoricalAccuracy()
    batches = data.evaluation_batches(
        validation,
        FLAGS.batch_size,
        resolution,
        crop_fraction=FLAGS.crop_fraction,
    )
    for images, labels in batches:
        metric.update_state(labels, model.predict_on_batch(images))
    return float(metric.result())


def planned_runs(resolutions):
    """(name, resolutions to train, distillation) of every run asked for."""
    runs = []
    if "rsnet" in FLAGS.runs:
        runs.append(("rsnet", resolutions, "full"))
    if "parallel" in FLAGS.runs:
        runs.append(("parallel", resolutions, "none"))
    if "inet" in FLAGS.runs:
        runs += [(f"inet_{r}", (r,), "none") for r in resolutions]
    return runs


def read_rows(path):
    if not os.path.exists(path):
        return []
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def summarize(rows, profile):
    """Prints table 2's columns, and draws them against the cost."""
    names = [row.point.name for row in profile]
    accuracies = {}  # by column, then by operating point: one a seed
    for row in rows:
        columns = {row["run"]: names}
        if row["run"].startswith("inet_"):
            trained = "r" + row["run"].removeprefix("inet_")
            columns = {"individual": [trained]}
            if trained == names[0]:
                columns[f"only {trained}"] = names
        for column, points in columns.items():
            for name in points:
                cell = accuracies.setdefault(column, {}).setdefault(name, [])
                cell.append(100 * row["accuracies"][name])

    print(f"\n{'':12}" + "".join(f"{column:>16}" for column in accuracies))
    for name in names:
        cells = [cells.get(name, []) for cells in accuracies.values()]
        print(f"{name:12}" + "".join(f"{_cell(c):>16}" for c in cells))
    for row in rows:
        if "ensemble" in row["accuracies"]:
            weights = " ".join(f"{w:.2f}" for w in row["ensemble_weights"])
            print(
                f"{row['run']}, seed {row['seed']}: ensemble "
                f"{100 * row['accuracies']['ensemble']:.1f}, alpha {weights}"
            )
    madds = {row.point.name: row.madds for row in profile}
    curves = {
        column: [
            (name, madds[name], statistics.mean(values) / 100)
            for name, values in cells.items()
        ]
        for column, cells in accuracies.items()
    }
    picture = os.path.splitext(FLAGS.results)[0] + ".png"
    analysis.plot_accuracy_cost(curves, picture, title=FLAGS.dataset)
    print(f"The plot is {picture}")


def _cell(values):
    if not values:
        return "-"
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main(_):
    resolutions = tuple(int(r) for r in FLAGS.resolutions)
    train, validation = (
        data.load_source(FLAGS.dataset, split, FLAGS.data_dir, cache=True)
        for split in ("train", "validation")
    )
    os.makedirs(os.path.dirname(FLAGS.results) or ".", exist_ok=True)
    finished = {(row["run"], row["seed"]) for row in read_rows(FLAGS.results)}
    for seed in (int(s) for s in FLAGS.seeds):
        for name, trained, distillation in planned_runs(resolutions):
            if (name, seed) in finished:
                continue
            print(f"=== {name}, seed {seed} ===", flush=True)
            row, model = train_and_evaluate(
                trained, distillation, seed, train, validation
            )
            if FLAGS.save_to:
                os.makedirs(FLAGS.save_to, exist_ok=True)
                model.save(os.path.join(FLAGS.save_to, f"{name}_{seed}.keras"))
            row = {"run": name, "seed": seed, "epochs": FLAGS.epochs, **row}
            print(json.dumps(row), flush=True)
            with open(FLAGS.results, "a") as lines:
                lines.write(json.dumps(row) + "\n")
    profile = build_model(train.num_classes, resolutions, "none").profile()
    summarize(read_rows(FLAGS.results), profile)


if __name__ == "__main__":
    app.run(main)
