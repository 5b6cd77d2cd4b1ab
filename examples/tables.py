"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table, aligned so that it is readable as plain text.

    Args:
        header: The titles of the columns.
        rows: The cells of each row. The first column is aligned to the left,
            all others to the right.
    """
    rows = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*rows)]

    def line(cells):
        first, *rest = zip(cells, widths)
        cells = [first[0].ljust(first[1]), *(cell.rjust(w) for cell, w in rest)]
        return f"| {' | '.join(cells)} |"

    print()
    print(line(rows[0]))
    print(line(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]))
    for row in rows[1:]:
        print(line(row))
    print(flush=True)
