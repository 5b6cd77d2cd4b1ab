"""A table of accuracies and costs, from which a budget selects a row."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence

from keras_resadapt.checks import check_network
from keras_resadapt.files import read_json, write_json
from keras_resadapt.inference.measuring.query_measurement import (
    LatencySettings,
    grid,
    measure_cascade,
    measure_points,
)
from keras_resadapt.inference.measuring.query_row import QueryRow, merge_rows
from keras_resadapt.inference.storing.fingerprint import (
    check_fingerprint,
    model_fingerprint,
)
from keras_resadapt.inference.storing.point_logits import PointLogits
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.number_checks import check_integer


@dataclasses.dataclass(frozen=True)
class QueryTable:
    """The accuracy and cost of every operating point of a network.

    MutualNet, section 3.3, "Model Inference".

    Attributes:
        rows: `QueryRow`s.
        fingerprint: The `model_fingerprint` of the measured model.

    Raises:
        ValueError: If `rows` are not `QueryRow`s with different names, or
            `fingerprint` is not a string.
    """

    rows: tuple[QueryRow, ...]
    fingerprint: str

    def __post_init__(self):
        rows = tuple(self.rows)
        if not all(isinstance(row, QueryRow) for row in rows) or (
            len({row.name for row in rows}) < len(rows)
        ):
            raise ValueError(
                "`rows` must be `QueryRow`s with different names. "
                f"Received: rows={rows!r}"
            )
        if not isinstance(self.fingerprint, str):
            raise ValueError(
                "`fingerprint` must be a string. "
                f"Received: fingerprint={self.fingerprint!r}"
            )
        object.__setattr__(self, "rows", rows)

    @classmethod
    def measure(
        cls,
        model: Network,
        data: Iterable,
        widths: Sequence[float] | float = 0.05,
        resolutions: Sequence[int] | None = None,
        *,
        held_out: PointLogits | None = None,
        budgets: int = 10,
        batch_sizes: Sequence[int] = (1,),
        repeats: int = 20,
        path: str | os.PathLike | None = None,
        verbose: bool = True,
    ) -> "QueryTable":
        """Measures a network at its operating points, on this device.

        A `MutualNet` is measured at all widths and resolutions, an `RSNet` at
        all resolutions. A cascade is measured at each exit and, with
        `held_out`, with the thresholds for several budgets.

        Latencies are measured on images of zeros, those of a detection network on the
        first images of `data`; see `measure_latency`.

        Args:
            model: A network of this package.
            data: Batches (images, labels), as for `collect_logits`; for detection,
                as for `Network.score_points`.
            widths: The widths of a `MutualNet`: a list, or the step from the
                largest to the smallest.
            resolutions: Resolutions of a switchable network, in pixels; by
                default all of the model.
            held_out: For a cascade: logits of other images, on which the
                thresholds are calibrated.
            budgets: The number of budgets, evenly spaced from the cost of the
                first exit to that of the last exit.
            batch_sizes: Batch sizes at which the latency is measured.
            repeats: Timed passes per operating point and batch size.
            path: A JSON file to which the table is saved after each
                resolution. If the file exists, an interrupted measurement on
                the same data continues from it.
            verbose: Whether to show progress.

        Raises:
            TypeError: If `model` is not a network of this package.
            ValueError: If the data or an argument is invalid, a point has no
                BatchNormalization statistics, or the file at `path` belongs
                to another model.
        """
        check_network(model)
        budgets = check_integer(budgets, "budgets")
        latency = LatencySettings(batch_sizes, repeats)
        if isinstance(model, Cascade):
            if resolutions is not None:
                raise ValueError(
                    "`resolutions` must be None for a cascade, which runs at one "
                    f"resolution. Received: resolutions={resolutions}"
                )
            rows = measure_cascade(model, data, held_out, budgets, latency, verbose)
            table = cls(tuple(rows), model_fingerprint(model))
            if path is not None:
                table.save(path)
            return table
        if held_out is not None:
            raise ValueError(
                "`held_out` must be None unless the model is a cascade. "
                f"Received: a model of type {type(model).__name__}"
            )
        points = grid(model, widths, resolutions)
        return cls._measure_grid(model, data, points, latency, path, verbose)

    @classmethod
    def _measure_grid(cls, model, data, points, latency, path, verbose):
        """Measures the missing points one resolution at a time."""
        table = cls((), model_fingerprint(model))
        if path is not None and os.path.exists(path):
            table = cls.load(path, model)
        for resolution in dict.fromkeys(point.resolution for point in points):
            done = {
                row.name
                for row in table.rows
                if set(row.ms) >= set(latency.batch_sizes)
            }
            missing = [
                point
                for point in points
                if point.resolution == resolution and point.name not in done
            ]
            if not missing:
                continue
            if verbose:
                print(f"{resolution} pixels, {len(missing)} operating points:")
            rows = measure_points(model, data, missing, latency, verbose)
            table = cls(merge_rows(table.rows, rows), table.fingerprint)
            if path is not None:
                table.save(path)
        names = {point.name for point in points}
        return cls(
            tuple(row for row in table.rows if row.name in names),
            table.fingerprint,
        )

    def best(
        self,
        *,
        max_madds: float | None = None,
        max_ms: float | None = None,
        batch: int | None = None,
    ) -> QueryRow:
        """Returns the most accurate row within a budget.

        Among equally accurate rows, it is the cheapest one.

        Args:
            max_madds: Multiply-adds per image.
            max_ms: Milliseconds per image.
            batch: The batch size of `max_ms`; by default the first one that
                was measured.

        Raises:
            ValueError: If neither or both of the budgets are given, the batch
                size was not measured, or no row is within the budget.
        """
        if (max_madds is None) == (max_ms is None):
            raise ValueError(
                "Give one of `max_madds` and `max_ms`. "
                f"Received: max_madds={max_madds}, max_ms={max_ms}"
            )
        cost = self.cost_of("madds" if max_ms is None else "ms", batch)
        budget = max_madds if max_ms is None else max_ms
        within = [row for row in self.rows if cost(row) <= budget]
        if not within:
            cheapest = min(self.rows, key=cost)
            raise ValueError(
                f"No row costs at most {budget:g}. The cheapest, "
                f"{cheapest.name!r}, costs {cost(cheapest):g}."
            )
        return max(within, key=lambda row: (row.accuracy, -cost(row)))

    def front(self, cost: str = "madds", batch: int | None = None) -> list[QueryRow]:
        """Returns the Pareto-optimal rows, the cheapest first.

        No other row is at least as accurate at a lower cost.

        Args:
            cost: `"madds"` or `"ms"`.
            batch: As for `best`.
        """
        cost_of = self.cost_of(cost, batch)
        front = []
        for row in sorted(self.rows, key=lambda r: (cost_of(r), -r.accuracy)):
            if not front or row.accuracy > front[-1].accuracy:
                front.append(row)
        return front

    def cost_of(
        self, cost: str = "madds", batch: int | None = None
    ) -> Callable[[QueryRow], float]:
        """Returns a function from a row to its cost.

        Args:
            cost, batch: As for `front`.
        """
        if cost not in ("madds", "ms"):
            raise ValueError(f"`cost` must be 'madds' or 'ms'. Received: cost={cost!r}")
        if not self.rows:
            raise ValueError("The table has no rows.")
        if cost == "madds":
            return lambda row: row.madds
        measured = [
            size for size in self.rows[0].ms if all(size in row.ms for row in self.rows)
        ]
        if batch is None and measured:
            batch = measured[0]
        if batch not in measured:
            raise ValueError(
                f"`batch` must be one of {measured}, measured for all rows. "
                f"Received: batch={batch}"
            )
        return lambda row: row.ms[batch]

    def check(self, model: Network) -> None:
        """Raises a `ValueError` unless the table was measured on a model."""
        check_fingerprint(
            model,
            self.fingerprint,
            "The table was measured on another model, or before the model's last "
            "training or calibration.",
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes a JSON file, completely or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(
        cls, path: str | os.PathLike, model: Network | None = None
    ) -> "QueryTable":
        """Reads a file that `save` wrote.

        Args:
            path: The JSON file.
            model: If given, the table must have been measured on this model.

        Raises:
            ValueError: If the file does not hold a valid table, or the table
                was measured on another model.
        """
        content = read_json(path)
        try:
            if set(content) != {"rows", "fingerprint"}:
                raise ValueError("it must have the keys `rows` and `fingerprint`")
            table = cls(
                tuple(map(QueryRow.from_json, content["rows"])),
                content["fingerprint"],
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} does not hold a valid query table: {error}"
            ) from None
        if model is not None:
            table.check(model)
        return table
