r"""Compares the query tables of several networks, in a plot and at equal budgets.

    python examples/compare_tables.py --output=compared.png \
        --tables=runs/mutual/query_table.json,runs/us_net/query_table.json

Tables of one name in `--names` are joined, such as those of individually trained
networks, which have one row each.
"""

import dataclasses
import os

import command_line  # first: it silences TensorFlow
import numpy as np
from absl import app, flags
from tables import print_table

from keras_resadapt import analysis
from keras_resadapt.inference import QueryTable

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "tables", None, "Required. The JSON files of the tables.", required=True
)
flags.DEFINE_list(
    "names", None, "One name per table; by default the names of the folders."
)
flags.DEFINE_string("output", "compare.png", "The plot.")
flags.DEFINE_enum("cost", "madds", ["madds", "ms"], "The cost in the plot.")
flags.DEFINE_integer("budgets", 8, "Number of budgets in the table.", lower_bound=2)
flags.DEFINE_string("title", "", "Title of the plot.")


def table_names() -> list[str]:
    """Returns one name per table."""
    if FLAGS.names:
        if len(FLAGS.names) != len(FLAGS.tables):
            raise app.UsageError(
                "--names must have one name per file of --tables. Received: "
                f"{len(FLAGS.names)} names for {len(FLAGS.tables)} files"
            )
        return FLAGS.names
    names = [
        os.path.basename(os.path.dirname(os.path.abspath(path)))
        for path in FLAGS.tables
    ]
    if len(set(names)) < len(names):
        raise app.UsageError(
            "--names is required where folders have the same names. "
            f"Received: folders named {', '.join(names)}"
        )
    return names


def load_tables() -> dict[str, QueryTable]:
    """Loads the tables by name, and joins those of one name."""
    tables = {}
    for name, path in zip(table_names(), FLAGS.tables):
        table = QueryTable.load(path)
        if name in tables:
            rows = tables[name].rows + table.rows
            table = dataclasses.replace(table, rows=rows)
        tables[name] = table
    return tables


def main():
    tables = load_tables()
    analysis.plot_query_table(tables, FLAGS.output, FLAGS.cost, title=FLAGS.title)
    highest = max(row.madds for table in tables.values() for row in table.rows)
    lowest = max(min(r.madds for r in table.rows) for table in tables.values())
    print("The most accurate operating point within each budget:")
    rows = []
    for budget in np.geomspace(lowest, highest, FLAGS.budgets):
        best = [t.best(max_madds=1.0001 * budget) for t in tables.values()]
        cells = [f"{row.accuracy:.3f} {row.name}" for row in best]
        rows.append([f"{budget / 1e6:.2f}", *cells])
    print_table(["budget (M)", *tables], rows)
    print(f"The plot is {FLAGS.output}")


if __name__ == "__main__":
    command_line.run(main)
