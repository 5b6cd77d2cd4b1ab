"""Tables of numbers in colored cells."""

from collections.abc import Sequence

import numpy as np

from keras_resadapt.analysis.text import plain


def draw_heat_table(
    axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    number: str = "{:.1f}",
    colors: str = "Blues",
) -> None:
    """Plots an array as a table.

    Args:
        axes: matplotlib axes.
        values: Array (rows, columns). NaN leaves a cell empty.
        rows, columns: Names of the rows and columns.
        number: Format of the numbers.
        colors: Name of a matplotlib colormap, from light to dark.
    """
    image = axes.imshow(values, cmap=colors, aspect="auto")
    axes.set_xticks(range(len(columns)), map(plain, columns))
    axes.set_yticks(range(len(rows)), map(plain, rows))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # White lines between the cells
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = image.norm(value) > 0.6
            axes.text(
                column,
                row,
                number.format(value),
                ha="center",
                va="center",
                color="white" if dark else "black",
            )
