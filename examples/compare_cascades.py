r"""Compares trained cascades at equal budgets (RANet, figures 5 and 6).

Takes the folders that train_ranet.py and train_msnet.py wrote: the logits in
them are enough, no network runs again.

    python examples/compare_cascades.py --runs=runs/ranet,runs/msdnet \
        --output=runs/compare.png
"""

import json
import os

import numpy as np
from absl import app, flags

import keras_resadapt  # noqa: F401, before keras
from keras_resadapt import analysis, inference

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", None, "Folders of finished runs.", required=True)
flags.DEFINE_string("output", "compare.png", "The plot; a .json beside it.")
flags.DEFINE_integer("budgets", 8, "Rows of the table.", lower_bound=2)
flags.DEFINE_enum(
    "method", "geometric", inference.METHODS, "How to find the thresholds."
)
flags.DEFINE_string("title", "", "Above the plot.")


def main(_):
    anytime, sweeps, logits = {}, {}, {}
    for run in FLAGS.runs:
        name = os.path.basename(os.path.normpath(run))
        if name in logits:
            raise app.UsageError(f"Two runs are named {name!r}: rename one.")
        held_out, test = logits[name] = [
            inference.PointLogits.load(os.path.join(run, f"{part}_logits.npz"))
            for part in ("held_out", "validation")
        ]
        anytime[name] = inference.anytime(test)
        rows = inference.budgeted(held_out, test, 60, FLAGS.method)
        sweeps[name] = [(row.madds, row.accuracy) for row in rows]
        print(
            f"{name}: "
            + ", ".join(
                f"{madds / 1e6:.1f}M {accuracy:.3f}"
                for _, madds, accuracy in anytime[name]
            )
        )

    lowest = max(held_out.madds[0] for held_out, _ in logits.values())
    highest = min(held_out.madds[-1] for held_out, _ in logits.values())
    budgets = np.linspace(lowest, highest, FLAGS.budgets)
    if lowest > highest:
        print("There is no budget that all can keep.")
        budgets = []
    table = {
        name: inference.budgeted(held_out, test, budgets, FLAGS.method)
        for name, (held_out, test) in logits.items()
    }
    print(f"\n{'budget (M)':>10}" + "".join(f"{name:>16}" for name in table))
    for number, budget in enumerate(budgets):
        print(
            f"{budget / 1e6:>10.1f}"
            + "".join(f"{rows[number].accuracy:>16.4f}" for rows in table.values())
        )
    analysis.plot_accuracy_cost(anytime, FLAGS.output, title=FLAGS.title, sweeps=sweeps)
    with open(f"{os.path.splitext(FLAGS.output)[0]}.json", "w") as file:
        json.dump({"anytime": anytime, "budgeted": sweeps}, file, indent=1)


if __name__ == "__main__":
    app.run(main)
