"""Plots of query tables."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from keras_resadapt.analysis.accuracy_cost import MARKERS
from keras_resadapt.analysis.text import plain

if TYPE_CHECKING:  # it needs TensorFlow, and the other plots do not
    from keras_resadapt.inference import QueryRow, QueryTable


def plot_query_table(
    tables: "QueryTable | Mapping[str, QueryTable]",
    path: str | os.PathLike,
    cost: str = "madds",
    batch: int | None = None,
    title: str = "",
    metric: str = "top-1 accuracy",
) -> dict[str, "list[QueryRow]"]:
    """Plots accuracy against cost, colored by resolution.

    MutualNet, figure 5: each row is a marker, and the front is a line. The colors
    along the front show which resolution suits which budget.

    Args:
        tables: A table of a `MutualNet`, an `RSNet` or a cascade, or tables by name,
            each with its own marker.
        path: The image file to write.
        cost: `"madds"` or `"ms"`.
        batch: As for `QueryTable.best`.
        title: Title of the plot.
        metric: Name of what the table has as the accuracy, for example `"mean IoU"`.

    Returns:
        The front of each table by name.

    Raises:
        ValueError: If there are no tables, a table is empty, or a table does not have
            the cost.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if not isinstance(tables, Mapping):
        tables = {"": tables}
    if not tables:
        raise ValueError(
            f"`tables` must have at least one table. Received: tables={tables!r}"
        )
    fronts = {name: table.front(cost, batch) for name, table in tables.items()}
    # Rows without a resolution, those of cascades, are drawn in grey.
    resolutions = sorted(
        {r.resolution for t in tables.values() for r in t.rows} - {None},
        reverse=True,
    )
    shades = colormaps["plasma"]
    colors = {
        resolution: shades(0.05 + 0.8 * i / max(len(resolutions) - 1, 1))
        for i, resolution in enumerate(resolutions)
    }
    scale, unit = (
        (1e-6, "multiply-adds (M)") if cost == "madds" else (1, "ms per image")
    )

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, table) in enumerate(tables.items()):
        marker = MARKERS[number % len(MARKERS)]
        style = ("-", "--", ":", "-.")[number % 4]
        cost_of = table.cost_of(cost, batch)
        axes.plot(
            [scale * cost_of(row) for row in fronts[name]],
            [100 * row.accuracy for row in fronts[name]],
            color="0.6",
            linestyle=style,
            linewidth=1,
            zorder=1,
        )
        axes.scatter(
            [scale * cost_of(row) for row in table.rows],
            [100 * row.accuracy for row in table.rows],
            s=22,
            marker=marker,
            color=[colors.get(row.resolution, "0.4") for row in table.rows],
            zorder=2,
        )
        if name:
            axes.plot([], [], style, color="0.4", marker=marker, label=plain(name))
    for resolution, color in colors.items():
        axes.plot([], [], "s", color=color, label=f"{resolution} pixels")
    axes.set_xlabel(unit)
    axes.set_ylabel(plain(f"{metric} (%)"))
    axes.set_title(plain(title))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
    return fronts
