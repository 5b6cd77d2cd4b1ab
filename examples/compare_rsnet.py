"""RS-Net against its baselines on one data set (RS-Net, table 2's columns).

Trains, with the same epochs and the same pictures:
  rsnet      all resolutions in parallel, with ensemble distillation
  parallel   all resolutions in parallel, without distillation
  inet_R     one network a resolution R, trained alone

and evaluates each at every resolution; the largest I-Net at the others too.
Every finished run is a line of RESULTS.jsonl, so that an interrupted
comparison goes on where it was.

    python examples/compare_rsnet.py --dataset=tiny_imagenet50 \
        --data_dir=DIR --results=runs/compare.jsonl
"""

import json
import os

# TensorFlow uses oneDNN's convolutions, often twice as fast, by itself on the
# newest processors only. It must be asked before it is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
from absl import app
from absl import flags

import keras_resadapt
from keras_resadapt import data
from keras_resadapt import training

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
flags.DEFINE_float("learning_rate", 0.05, "Annealed to 0 by a cosine.")
flags.DEFINE_list("seeds", ["0"], "One comparison each.")
flags.DEFINE_list("runs", ["rsnet", "parallel", "inet"], "What to train.")
flags.DEFINE_string("results", "runs/compare.jsonl", "Lines of JSON.")


def train_and_evaluate(resolutions, distillation, seed, train, validation):
    """Trains one network; returns its accuracies and ensemble weights."""
    keras.utils.set_random_seed(seed)
    model = keras_resadapt.RSNet18(
        train.num_classes,
        resolutions,
        distillation=distillation,
        depths=[int(d) for d in FLAGS.depths],
        filters=[int(f) for f in FLAGS.filters],
        stem=FLAGS.stem,
        extrapolate=True,
    )
    steps = train.steps_per_epoch(FLAGS.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        FLAGS.learning_rate, FLAGS.epochs * steps
    )
    model.compile(
        training.SGD(schedule, momentum=0.9, weight_decay=1e-4),
        metrics=["accuracy"],
    )
    batches = data.training_batches(
        train,
        FLAGS.batch_size,
        resolutions[0],
        crop=FLAGS.crop,
        area_range=(FLAGS.min_area, 1.0),
        seed=seed,
    )
    history = model.fit(
        batches, epochs=FLAGS.epochs, steps_per_epoch=steps, verbose=2
    )
    accuracies = {}
    for resolution in [int(r) for r in FLAGS.resolutions]:
        accuracies[f"r{resolution}"] = _accuracy(
            model, validation, resolution
        )
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
    }


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


def main(_):
    resolutions = tuple(int(r) for r in FLAGS.resolutions)
    train, validation = (
        data.load_source(FLAGS.dataset, split, FLAGS.data_dir, cache=True)
        for split in ("train", "validation")
    )
    os.makedirs(os.path.dirname(FLAGS.results) or ".", exist_ok=True)
    finished = set()
    if os.path.exists(FLAGS.results):
        with open(FLAGS.results) as lines:
            rows = [json.loads(line) for line in lines]
        finished = {(row["run"], row["seed"]) for row in rows}
    for seed in (int(s) for s in FLAGS.seeds):
        for name, trained, distillation in planned_runs(resolutions):
            if (name, seed) in finished:
                continue
            print(f"=== {name}, seed {seed} ===", flush=True)
            row = train_and_evaluate(
                trained, distillation, seed, train, validation
            )
            row = {"run": name, "seed": seed, "epochs": FLAGS.epochs, **row}
            print(json.dumps(row), flush=True)
            with open(FLAGS.results, "a") as lines:
                lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    app.run(main)
