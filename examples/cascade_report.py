"""What a trained cascade can do: tables, thresholds, pictures."""

import json
import os

import training_script
from absl import app, flags

from keras_resadapt import analysis, inference

FLAGS = flags.FLAGS
flags.DEFINE_float(
    "held_out",
    0.1,
    "Share of the training pictures on which thresholds are calibrated.",
    lower_bound=0.001,
    upper_bound=0.5,
)
flags.DEFINE_float(
    "max_madds",
    None,
    "Mean multiply-adds an image for which thresholds.json is made; by "
    "default half way between the first exit's and the last one's.",
)


def check_budget(model) -> None:
    """Refuses a `--max_madds` out of range, before the training."""
    madds = [row.madds for row in model.profile()]
    if FLAGS.max_madds and not madds[0] <= FLAGS.max_madds <= madds[-1]:
        raise app.UsageError(
            f"--max_madds={FLAGS.max_madds} must be from {madds[0]}, the first "
            f"exit's cost, to {madds[-1]}, the last one's."
        )


def report(model, sources) -> None:
    """Prints and saves what each exit, and what stopping early, gives."""
    folder = FLAGS.output_dir
    collected = {}
    for name, source in (
        ("held_out", sources.held_out),
        ("validation", sources.validation),
    ):
        print(f"The logits of all exits, {source.name}:")
        collected[name] = inference.collect_logits(
            model, training_script.evaluation_batches(source, model.resolution)
        )
        collected[name].save(os.path.join(folder, f"{name}_logits.npz"))
    held_out, validation = collected.values()

    anytime = inference.anytime(validation)
    milliseconds = inference.measure_exit_latency(model)
    print("\nexit    MAdds (M)  accuracy  ms for one image")
    for (name, madds, accuracy), ms in zip(anytime, milliseconds):
        print(f"{name:6}{madds / 1e6:>11.1f}{accuracy:>10.3f}{ms:>18.2f}")

    max_madds = FLAGS.max_madds or (anytime[0][1] + anytime[-1][1]) / 2
    thresholds = inference.calibrate(held_out, max_madds=max_madds)
    thresholds.save(os.path.join(folder, "thresholds.json"))
    adaptive = inference.simulate(validation, thresholds)
    accuracy = float((adaptive.classes == validation.labels).mean())
    print(
        f"adaptive, calibrated for at most {max_madds / 1e6:.1f}M on average: "
        f"{adaptive.madds.mean() / 1e6:.1f}M, accuracy {accuracy:.3f}"
    )

    curve = inference.budgeted(held_out, validation)
    table = {
        "anytime": [
            {
                "exit": name,
                "madds": madds,
                "accuracy": accuracy,
                "ms_of_one_image": ms,
            }
            for (name, madds, accuracy), ms in zip(anytime, milliseconds)
        ],
        "budgeted": [{"madds": row.madds, "accuracy": row.accuracy} for row in curve],
    }
    with open(os.path.join(folder, "table.json"), "w") as file:
        json.dump(table, file, indent=1)
    analysis.plot_accuracy_cost(
        {model.name: anytime},
        os.path.join(folder, "accuracy_cost.png"),
        title=f"All images at one exit, and each at its own ({FLAGS.dataset})",
        sweeps={model.name: [(row.madds, row.accuracy) for row in curve]},
    )
    analysis.plot_exit_gallery(
        model,
        thresholds,
        training_script.evaluation_batches(sources.validation, model.resolution),
        os.path.join(folder, "exits.png"),
        columns=8,
        title="Right answers, by the exit at which they left",
        verbose=False,
    )
