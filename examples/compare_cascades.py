r"""Compares trained cascades at equal budgets (RANet, figures 5 and 6).

Reads the logits in the folders that train_ranet.py and train_msnet.py wrote. No
network is run.

    python examples/compare_cascades.py --runs=runs/ranet,runs/msdnet \
        --output=runs/compare.png
"""

import os

import command_line  # first: it silences TensorFlow
import numpy as np
from absl import app, flags
from tables import print_table

from keras_resadapt import analysis, inference
from keras_resadapt.files import write_json

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", None, "Required. Folders of finished runs.", required=True)
flags.DEFINE_string(
    "output", "compare.png", "The plot; the numbers are written to a .json file too."
)
flags.DEFINE_integer("budgets", 8, "Number of budgets in the table.", lower_bound=2)
flags.DEFINE_enum(
    "method", "geometric", inference.METHODS, "The search for the thresholds."
)
flags.DEFINE_string("title", "", "Title of the plot.")


def load_logits(run: str) -> list[inference.PointLogits]:
    """Returns the logits of a run on the held-out and the validation images."""
    return [
        inference.PointLogits.load(os.path.join(run, f"{part}_logits.npz"))
        for part in ("held_out", "validation")
    ]


def load_runs() -> dict[str, list[inference.PointLogits]]:
    """Returns the logits of all runs, by the names of their folders."""
    logits = {}
    for run in FLAGS.runs:
        name = os.path.basename(os.path.normpath(run))
        if name in logits:
            raise app.UsageError(
                "--runs must be folders of different names. "
                f"Received: two folders named {name!r}"
            )
        logits[name] = load_logits(run)
    return logits


def print_exits(anytime: dict[str, list]) -> None:
    """Prints the cost and the accuracy of the exits."""
    print_table(
        ["run", "exit", "MAdds (M)", "accuracy"],
        [
            [name, exit_name, f"{madds / 1e6:.1f}", f"{accuracy:.4f}"]
            for name, rows in anytime.items()
            for exit_name, madds, accuracy in rows
        ],
    )


def print_budgets(logits: dict[str, list[inference.PointLogits]]) -> None:
    """Prints the accuracy of each run at budgets that all runs can keep."""
    lowest = max(held_out.madds[0] for held_out, _ in logits.values())
    highest = min(held_out.madds[-1] for held_out, _ in logits.values())
    if lowest > highest:
        print("No budget is in the range of all runs.")
        return
    budgets = np.linspace(lowest, highest, FLAGS.budgets)
    columns = [
        inference.budgeted(held_out, validation, budgets, FLAGS.method)
        for held_out, validation in logits.values()
    ]
    print_table(
        ["budget (M)", *logits],
        [
            [f"{budget / 1e6:.1f}", *(f"{row.accuracy:.4f}" for row in rows)]
            for budget, *rows in zip(budgets, *columns)
        ],
    )


def main():
    logits = load_runs()
    anytime = {name: inference.anytime(test) for name, (_, test) in logits.items()}
    sweeps = {
        name: [
            (row.madds, row.accuracy)
            for row in inference.budgeted(held_out, test, 60, FLAGS.method)
        ]
        for name, (held_out, test) in logits.items()
    }
    print_exits(anytime)
    print_budgets(logits)
    analysis.plot_accuracy_cost(anytime, FLAGS.output, title=FLAGS.title, sweeps=sweeps)
    write_json(
        f"{os.path.splitext(FLAGS.output)[0]}.json",
        {"anytime": anytime, "budgeted": sweeps},
    )


if __name__ == "__main__":
    command_line.run(main)
