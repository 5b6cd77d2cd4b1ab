r"""Compares MutualNet for instance segmentation with its baselines (figure 8).

Trains the following networks, a Mask R-CNN on a small ResNet, for the same epochs and
on the same images:
  mutual      all widths at all resolutions
  usnet       all widths at the largest resolution alone
  single_P    one network for each operating point P of --singles

and computes the average precision of boxes and masks at each operating point, after a
calibration of BatchNormalization. Each finished training adds one line to the results
file, and the same command continues an interrupted comparison. Prints tables with the
multiply-adds of the network and of its backbone alone, since widths change only the
backbone. Writes plots to the folder of the results file.

    python examples/compare_detection.py --dataset=nuclei_dsb --data_dir=DIR \
        --resolutions=256,192,128 --results=runs/detection.jsonl
"""

import json
import os
import statistics

import command_line  # first: it silences TensorFlow
import keras
import shared_flags
from absl import app, flags
from comparison import append_row, mean_and_spread, read_rows
from tables import print_table

import keras_resadapt
from keras_resadapt import OperatingPoint, analysis, data, inference, training
from keras_resadapt.profile import profile_point

FLAGS = flags.FLAGS
shared_flags.define_integers(
    "resolutions", [256, 192, 128], "Short sides in pixels, the largest first."
)
flags.DEFINE_list("widths", ["1.0", "0.5", "0.25"], "Widths that are measured.")
flags.DEFINE_list(
    "singles",
    ["r256_w100", "r192_w050", "r128_w025"],
    "Operating points with a network of their own.",
)
flags.DEFINE_integer("max_size", 320, "Largest side of an image in pixels.")
shared_flags.define_integers("filters", [16, 32, 64, 128], "Channels per stage.")
shared_flags.define_integers("depths", [1, 1, 1, 1], "Blocks per stage.")
flags.DEFINE_integer("channels", 64, "Channels of the neck and the heads.", 1)
flags.DEFINE_integer("units", 128, "Units of the box head.", lower_bound=1)
flags.DEFINE_list(
    "anchor_sizes", ["12", "24", "48", "96", "192"], "Size of the anchors per level."
)
flags.DEFINE_integer("max_objects", 100, "Objects per training image.", 1)
flags.DEFINE_integer("epochs", 12, "Epochs per training.", lower_bound=1)
flags.DEFINE_integer("batch_size", 4, "Images per step.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.01, "Initial rate of the cosine schedule.", 0.0)
shared_flags.define_integers("seeds", [0], "Seeds of the comparison.", minimum=0)
flags.DEFINE_list("runs", ["mutual", "usnet", "single"], "The networks to train.")
flags.DEFINE_string("save_to", None, "A folder for the trained networks.")
flags.DEFINE_string("results", "runs/detection.jsonl", "The results.")

SCORES = ("box_ap", "mask_ap", "box_ap50", "mask_ap50")


def grid() -> dict[str, OperatingPoint]:
    """Returns the operating points that the flags describe, by name."""
    points = [
        OperatingPoint(resolution, float(width))
        for resolution in FLAGS.resolutions
        for width in FLAGS.widths
    ]
    return {point.name: point for point in points}


def planned_networks() -> list[tuple[str, list[OperatingPoint], dict]]:
    """Returns the name, the measured points and the arguments of each network."""
    points, resolutions = grid(), tuple(FLAGS.resolutions)
    widths = [point.width for point in points.values()]
    slimmable = {"width_range": (min(widths), 1.0), "resolutions": resolutions}
    networks = [
        ("mutual", list(points.values()), slimmable),
        (
            "usnet",
            list(points.values()),
            slimmable | {"train_resolutions": resolutions[:1]},
        ),
    ]
    for name in FLAGS.singles if "single" in FLAGS.runs else ():
        if name not in points:
            raise app.UsageError(
                f"--singles must be some of {', '.join(points)}. Received: {name}"
            )
        point = points[name]
        arguments = {
            "width_range": (point.width, point.width),
            "resolutions": (point.resolution,),
        }
        networks.append((f"single_{name}", [point], arguments))
    return [n for n in networks if n[0].split("_")[0] in FLAGS.runs]


def build_model(num_classes: int, arguments: dict) -> keras_resadapt.MutualNet:
    """Builds the network that the flags and the arguments describe."""
    resolution = arguments["resolutions"][0]
    return keras_resadapt.MutualMaskRCNN(
        num_classes,
        "resnet18",
        max_size=FLAGS.max_size * resolution // FLAGS.resolutions[0],
        depths=FLAGS.depths,
        filters=FLAGS.filters,
        channels=FLAGS.channels,
        units=FLAGS.units,
        settings={
            "anchor_sizes": [float(size) for size in FLAGS.anchor_sizes],
            "rpn_candidates": (600, 300),
            "rpn_proposals": (400, 200),
            "box_samples": 128,
        },
        **arguments,
    )


def train(arguments: dict, seed: int, source):
    """Returns a trained network, and its training loss in the last epoch."""
    keras.utils.set_random_seed(seed)
    model = build_model(source.num_classes, arguments)
    resolution = model.resolutions[0]
    steps = source.steps_per_epoch(FLAGS.batch_size)
    recipe = training.Recipe(
        FLAGS.epochs,
        FLAGS.learning_rate,
        weight_decay=1e-4,
        batch_size=FLAGS.batch_size,
        warmup_epochs=1,
    )
    model.compile(recipe.optimizer(steps, FLAGS.batch_size))
    batches = data.detection_training_batches(
        source,
        FLAGS.batch_size,
        resolution,
        max_size=FLAGS.max_size * resolution // FLAGS.resolutions[0],
        max_objects=FLAGS.max_objects,
        seed=seed,
    )
    history = model.fit(batches, epochs=FLAGS.epochs, steps_per_epoch=steps, verbose=2)
    return model, batches, history.history["loss"][-1]


def evaluate(model, points, batches, source) -> dict[str, dict[str, float]]:
    """Returns COCO's scores at each operating point."""
    inference.calibrate_batch_norm(model, batches, points, 200, verbose=False)
    results = {}
    for point in points:
        scorer = model.task.make_scorer()
        largest = FLAGS.max_size * point.resolution // FLAGS.resolutions[0]
        for images, targets in data.detection_evaluation_batches(
            source, 4, point.resolution, max_size=largest
        ):
            scorer.update_state(targets, model.run_at(point, images, targets))
        results[point.name] = {k: float(v) for k, v in scorer.result().items()}
        print(point.name, json.dumps(results[point.name]), flush=True)
    return results


def run(name, points, arguments, seed, sources) -> dict:
    """Trains and evaluates a network; returns its line of the results file."""
    print(f"=== {name}, seed {seed} ===", flush=True)
    model, batches, loss = train(arguments, seed, sources["train"])
    scores = evaluate(model, points, batches, sources["validation"])
    if FLAGS.save_to:
        os.makedirs(FLAGS.save_to, exist_ok=True)
        model.save(os.path.join(FLAGS.save_to, f"{name}_{seed}.keras"))
    madds = {row.point.name: row.madds for row in model.profile(points)}
    return {
        "run": name,
        "seed": seed,
        "epochs": FLAGS.epochs,
        "scores": scores,
        "madds": madds,
        "final_loss": loss,
    }


def backbone_madds() -> dict[str, int]:
    """Returns the backbone's multiply-adds at each operating point, by name.

    They do not depend on the kind of training. The neck and the heads, which have all
    channels at every width, are not counted.
    """
    points = list(grid().values())
    widths = [point.width for point in points]
    model = build_model(
        1,
        {
            "width_range": (min(widths), max(widths)),
            "resolutions": tuple(FLAGS.resolutions),
        },
    )

    def run_backbone(images, point):
        return model.backbone.pyramid(images, point=point, training=True)

    return {
        point.name: profile_point(
            run_backbone, (*model.image_size_of(point), 3), point
        ).madds
        for point in points
    }


def collect(rows: list[dict], score: str) -> dict[str, dict[str, list[float]]]:
    """Returns a score of all seeds in percent, by kind of training and point."""
    cells = {row["run"].split("_")[0]: {} for row in rows}
    for row in rows:
        column = cells[row["run"].split("_")[0]]
        for name, scores in row["scores"].items():
            column.setdefault(name, []).append(100 * scores[score])
    return cells


def summarize(rows: list[dict]) -> None:
    """Prints one table per score, and plots it against multiply-adds."""
    madds = {}
    for row in rows:
        madds |= row["madds"]
    names = sorted(madds, key=madds.get, reverse=True)
    of_backbone = backbone_madds()
    for score in SCORES:
        cells = collect(rows, score)
        print(f"\n{score} in percent:")
        print_table(
            ["operating point", "MAdds (M)", "of the backbone", *cells],
            [
                [
                    name,
                    f"{madds[name] / 1e6:.0f}",
                    f"{of_backbone[name] / 1e6:.0f}",
                    *(mean_and_spread(cells[c].get(name, [])) for c in cells),
                ]
                for name in names
            ],
        )
        seeds = len({row["seed"] for row in rows})
        title = FLAGS.dataset + (f", mean of {seeds} seeds" if seeds > 1 else "")
        plot_score(score, cells, madds, title)


def plot_score(score: str, cells: dict, madds: dict[str, int], title: str) -> None:
    """Plots the mean of a score over the seeds against multiply-adds (figure 8)."""
    curves = {
        column: sorted(
            (
                (name, madds[name], statistics.mean(values) / 100)
                for name, values in of_column.items()
            ),
            key=lambda row: row[1],
        )
        for column, of_column in cells.items()
    }
    path = f"{os.path.splitext(FLAGS.results)[0]}_{score}.png"
    analysis.plot_accuracy_cost(curves, path, title, metric=score.replace("_ap", " AP"))
    print(f"The plot is {path}")


def main():
    sources = {
        split: shared_flags.load_source(split, task="detection")
        for split in ("train", "validation")
    }
    os.makedirs(os.path.dirname(FLAGS.results) or ".", exist_ok=True)
    for seed in FLAGS.seeds:
        for name, points, arguments in planned_networks():
            done = {(row["run"], row["seed"]) for row in read_rows(FLAGS.results)}
            if (name, seed) not in done:
                append_row(FLAGS.results, run(name, points, arguments, seed, sources))
    summarize(read_rows(FLAGS.results))


if __name__ == "__main__":
    command_line.run(main)
