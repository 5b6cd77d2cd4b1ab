"""The report on a trained cascade: exits, thresholds, tables and plots."""

from collections.abc import Callable

import command_line  # noqa: F401, first: it silences TensorFlow
import keras
import numpy as np
import training_script
from absl import app, flags
from tables import print_table

from keras_resadapt import analysis, inference, training
from keras_resadapt.files import write_json

FLAGS = flags.FLAGS
flags.DEFINE_float(
    "held_out",
    0.1,
    "Fraction of the training images on which thresholds are calibrated.",
    lower_bound=0.001,
    upper_bound=0.5,
)
flags.DEFINE_float(
    "max_madds",
    None,
    "Mean multiply-adds per image for which the thresholds are calibrated; by "
    "default halfway between those of the first and the last exit.",
)


def script(
    recipe: training.Recipe, build_model: Callable[[int], keras.Model]
) -> training_script.Script:
    """Returns the training script of a cascade.

    Args:
        recipe: The recipe of the paper.
        build_model: Builds the network for a number of classes.
    """

    def build(num_classes):
        model = build_model(num_classes)
        check_budget(model)
        return model

    return training_script.Script(
        recipe,
        build,
        report,
        held_out=FLAGS.held_out,
        report_flags=("max_madds",),
    )


def check_budget(model: keras.Model) -> None:
    """Raises a `UsageError` if `--max_madds` is not between the exits' costs."""
    madds = [row.madds for row in model.profile()]
    if FLAGS.max_madds is None or madds[0] <= FLAGS.max_madds <= madds[-1]:
        return
    raise app.UsageError(
        f"--max_madds must be from {madds[0]} (the first exit) to {madds[-1]} (the "
        f"last exit). Received: --max_madds={FLAGS.max_madds}"
    )


def report(model: keras.Model, sources: training_script.Sources) -> None:
    """Measures the exits and adaptive inference; prints, saves and plots them."""
    held_out = collect(model, sources.held_out, "held_out")
    validation = collect(model, sources.validation, "validation")
    exits = report_exits(model, validation)
    thresholds = report_thresholds(held_out, validation)
    curve = inference.budgeted(held_out, validation)
    write_json(
        training_script.path_of("table.json"),
        {
            "anytime": exits,
            "budgeted": [
                {"madds": row.madds, "accuracy": row.accuracy} for row in curve
            ],
        },
    )
    analysis.plot_accuracy_cost(
        {model.name: inference.anytime(validation)},
        training_script.path_of("accuracy_cost.png"),
        title=f"One exit for all images, and adaptive exits ({FLAGS.dataset})",
        sweeps={model.name: [(row.madds, row.accuracy) for row in curve]},
    )
    if keras.backend.backend() != "tensorflow":
        print("The latency and the plot of exits need KERAS_BACKEND=tensorflow.")
        return
    analysis.plot_exit_gallery(
        model,
        thresholds,
        training_script.evaluation_batches(sources.validation, model),
        training_script.path_of("exits.png"),
        columns=8,
        title="Correctly classified images by their exit",
        verbose=False,
    )


def collect(model: keras.Model, source, name: str) -> inference.PointLogits:
    """Computes the logits of all exits, and saves them as `NAME_logits.npz`."""
    print(f"Logits of all exits on {source.name}:")
    logits = inference.collect_logits(
        model, training_script.evaluation_batches(source, model)
    )
    logits.save(training_script.path_of(f"{name}_logits.npz"))
    return logits


def report_exits(model: keras.Model, validation: inference.PointLogits) -> list[dict]:
    """Prints and returns the cost and the accuracy of each exit.

    The latency is that of TensorFlow's stages, and None on other backends.
    """
    exits = inference.anytime(validation)
    latencies = [None] * len(exits)
    if keras.backend.backend() == "tensorflow":
        latencies = inference.measure_exit_latency(model)
    rows = [
        {"exit": name, "madds": madds, "accuracy": accuracy, "ms_of_one_image": ms}
        for (name, madds, accuracy), ms in zip(exits, latencies)
    ]
    print_table(
        ["exit", "MAdds (M)", "accuracy", "ms for one image"],
        [
            [
                row["exit"],
                f"{row['madds'] / 1e6:.1f}",
                f"{row['accuracy']:.3f}",
                f"{ms:.2f}" if (ms := row["ms_of_one_image"]) else "-",
            ]
            for row in rows
        ],
    )
    return rows


def report_thresholds(
    held_out: inference.PointLogits, validation: inference.PointLogits
) -> inference.Thresholds:
    """Calibrates the thresholds, saves them, and prints what they give."""
    max_madds = FLAGS.max_madds or np.mean([held_out.madds[0], held_out.madds[-1]])
    thresholds = inference.calibrate(held_out, max_madds=float(max_madds))
    thresholds.save(training_script.path_of("thresholds.json"))
    adaptive = inference.simulate(validation, thresholds)
    accuracy = float((adaptive.classes == validation.labels).mean())
    print(
        f"Adaptive inference, calibrated for at most {max_madds / 1e6:.1f}M "
        f"multiply-adds per image: {adaptive.madds.mean() / 1e6:.1f}M, accuracy "
        f"{accuracy:.3f}"
    )
    return thresholds
