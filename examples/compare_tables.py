r"""Query tables of several networks in one plot, and at equal budgets.

    python examples/compare_tables.py --output=compared.png \
        --tables=runs/mutual/query_table.json,runs/us_net/query_table.json

Individually trained networks are tables of one row each: give them one name
by `--names`, and their rows are put together.
"""

import dataclasses
import os

import numpy as np
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt  # noqa: F401
from keras_resadapt import analysis
from keras_resadapt.inference import QueryTable

FLAGS = flags.FLAGS
flags.DEFINE_list("tables", None, "The JSON files.", required=True)
flags.DEFINE_list("names", None, "One a file; by default the folders'.")
flags.DEFINE_string("output", "compare.png", "The plot.")
flags.DEFINE_enum("cost", "madds", ["madds", "ms"], "Of the plot.")
flags.DEFINE_integer("budgets", 8, "Rows of the table.", lower_bound=2)
flags.DEFINE_string("title", "", "Above the plot.")


def main(_):
    names = FLAGS.names or [
        os.path.basename(os.path.dirname(os.path.abspath(path)))
        for path in FLAGS.tables
    ]
    if not FLAGS.names and len(set(names)) < len(names):
        raise app.UsageError(
            f"The folders have the same names, {names}: tell them apart, or "
            "put them together, by --names."
        )
    if len(names) != len(FLAGS.tables):
        raise app.UsageError("--names must have a name a file of --tables.")
    tables = {}
    for name, path in zip(names, FLAGS.tables):
        table = QueryTable.load(path)
        if name in tables:
            rows = tables[name].rows + table.rows
            table = dataclasses.replace(table, rows=rows)
        tables[name] = table
    analysis.plot_query_table(tables, FLAGS.output, FLAGS.cost, title=FLAGS.title)

    dearest = max(row.madds for table in tables.values() for row in table.rows)
    first = max(min(r.madds for r in table.rows) for table in tables.values())
    print("The most accurate within a budget of multiply-adds:")
    print("".join([f"{'MAdds (M)':12}", *(f"{name:>26}" for name in tables)]))
    for budget in np.geomspace(first, dearest, FLAGS.budgets):
        best = [t.best(max_madds=1.0001 * budget) for t in tables.values()]
        cells = (f"{row.accuracy:.3f} {row.name}" for row in best)
        print("".join([f"{budget / 1e6:<12.2f}", *(f"{c:>26}" for c in cells)]))
    print(f"The plot is {FLAGS.output}")


if __name__ == "__main__":
    app.run(main)
