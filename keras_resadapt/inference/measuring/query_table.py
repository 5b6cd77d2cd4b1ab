"""The table from which a budget picks its operating point."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence

import numpy as np

from keras_resadapt.files import write_json
from keras_resadapt.inference.calibrating.calibration import calibrate
from keras_resadapt.inference.measuring.evaluation import anytime, simulate
from keras_resadapt.inference.measuring.exit_latency import measure_exit_latency
from keras_resadapt.inference.measuring.latency import measure_latency
from keras_resadapt.inference.storing.fingerprint import (
    check_fingerprint,
    model_fingerprint,
)
from keras_resadapt.inference.storing.point_logits import (
    PointLogits,
    collect_logits,
    count_correct,
)
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class QueryRow:
    """What one way of running a network gives and costs.

    Attributes:
        name: The operating point's name; `"adaptive0"`, ... for a cascade
            with thresholds.
        accuracy: Top-1, in [0, 1].
        madds: Multiply-adds an image, on average where it depends on it.
        ms: By the number of images that run together, median milliseconds an
            image on the device of the measurement.
        resolution, width, exit: Those of the operating point.
        thresholds: Of a cascade that stops image by image.
    """

    name: str
    accuracy: float
    madds: float
    ms: dict[int, float]
    resolution: int | None = None
    width: float | None = None
    exit: int | None = None
    thresholds: tuple[float, ...] | None = None

    @property
    def point(self) -> OperatingPoint:
        """The operating point, for `model.logits`."""
        return OperatingPoint(self.resolution, self.width, self.exit)


@dataclasses.dataclass(frozen=True)
class QueryTable:
    """Accuracy and cost of every operating point, measured once for all.

    MutualNet, section 3.3, "Model Inference".

    Attributes:
        rows: `QueryRow`s.
        fingerprint: `model_fingerprint` of the model that was measured.
    """

    rows: tuple[QueryRow, ...]
    fingerprint: str

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
        all resolutions, a cascade at each exit and, with `held_out`, with the
        thresholds for a number of budgets.

        Args:
            model: A classifier.
            data: Batches of (images, labels), as for `collect_logits`.
            widths: Of a `MutualNet`: a list, or the step from the largest to
                the smallest.
            resolutions: By default all of the model.
            held_out: Of a cascade: logits of other data, on which its
                thresholds are found.
            budgets: How many, evenly from the first exit's cost to the last
                one's.
            batch_sizes: Images that run together, for the milliseconds; 1
                first for a server that answers at once.
            repeats: Timed passes of each.
            path: A JSON file. The table is saved there while it grows, and a
                measurement on the same data that was interrupted goes on
                from there.
            verbose: Whether to show the progress.

        Raises:
            TypeError: The model is no `Network`.
            ValueError: Bad data or arguments, points without BatchNormalization
                statistics, a file at `path` of another model.
        """
        if not isinstance(model, Network):
            raise TypeError(
                "`model` must be a network of this package, such as a "
                f"`MutualNet`. Received: {type(model).__name__}"
            )
        batch_sizes = tuple(batch_sizes)
        if not batch_sizes or not all(
            size >= 1 for size in (*batch_sizes, repeats, budgets)
        ):
            raise ValueError(
                "`batch_sizes`, `repeats` and `budgets` must be positive. "
                f"Received: {batch_sizes}, {repeats}, {budgets}"
            )
        if isinstance(model, Cascade):
            if resolutions is not None:
                raise ValueError(
                    "A cascade runs at one resolution. "
                    f"Received: resolutions={resolutions}"
                )
            table = _measure_cascade(
                model, data, held_out, budgets, batch_sizes, repeats, verbose
            )
            if path is not None:
                table.save(path)
            return table
        if held_out is not None:
            raise ValueError(
                "`held_out` is for cascades, which have thresholds. "
                f"Received: a {type(model).__name__} with it"
            )

        points = _grid(model, widths, resolutions)
        table = cls((), model_fingerprint(model))
        if path is not None and os.path.exists(path):
            table = cls.load(path)
            table.check(model)
        # Resolution by resolution: a pass over the data each, and then saved.
        for resolution in dict.fromkeys(p.resolution for p in points):
            done = {row.name for row in table.rows if set(row.ms) >= set(batch_sizes)}
            todo = [
                p for p in points if p.resolution == resolution and p.name not in done
            ]
            if not todo:
                continue
            if verbose:
                print(f"{resolution} pixels, {len(todo)} operating points:")
            rows = _measure_points(model, data, todo, batch_sizes, repeats, verbose)
            table = cls(_merge(table.rows, rows), table.fingerprint)
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
        """The most accurate row within a budget, the cheapest of equals.

        Args:
            max_madds: Multiply-adds an image.
            max_ms: Milliseconds an image.
            batch: Images that run together; by default the first that was
                measured.

        Raises:
            ValueError: Neither budget or both, a batch that was not measured,
                or no row within the budget.
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
        """The rows than which none is as accurate for less, the cheapest
        first.

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

    def cost_of(self, cost: str = "madds", batch: int | None = None):
        """A function from a row to its cost; arguments as for `front`."""
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

    def check(self, model) -> None:
        """Raises a `ValueError` unless it was measured on this model."""
        check_fingerprint(
            model,
            self.fingerprint,
            "The table was measured on another model, or before its last "
            "training or calibration.",
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes a JSON file, complete or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(
        cls, path: str | os.PathLike, model: Network | None = None
    ) -> "QueryTable":
        """Reads what `save` wrote; with a model, checks that it is its."""
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        try:
            table = cls(tuple(map(_read_row, content["rows"])), content["fingerprint"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{os.fspath(path)!r} holds no query table.") from error
        if model is not None:
            table.check(model)
        return table


def _read_row(content) -> QueryRow:
    # JSON has no integers for keys, and no tuples.
    ms = {int(batch): ms for batch, ms in content["ms"].items()}
    thresholds = content["thresholds"]
    return QueryRow(
        **{
            **content,
            "ms": ms,
            "thresholds": thresholds and tuple(thresholds),
        }
    )


def _merge(old, new) -> tuple[QueryRow, ...]:
    """The new rows, with what old ones of the same names also measured."""
    measured = {row.name: row.ms for row in old}
    names = {row.name for row in new}
    return (
        *(row for row in old if row.name not in names),
        *(
            dataclasses.replace(row, ms={**measured.get(row.name, {}), **row.ms})
            for row in new
        ),
    )


def _grid(model, widths, resolutions) -> list[OperatingPoint]:
    resolutions = tuple(model.resolutions if resolutions is None else resolutions)
    if hasattr(model, "grid"):
        return model.grid(widths, resolutions)
    return [OperatingPoint(resolution=r) for r in resolutions]


def _measure_points(model, data, points, batch_sizes, repeats, verbose):
    accuracy = count_correct(model, data, points, verbose)
    ms = {size: measure_latency(model, points, size, repeats) for size in batch_sizes}
    return [
        QueryRow(
            row.point.name,
            correct,
            row.madds,
            {size: ms[size][row.point.name] for size in batch_sizes},
            row.point.resolution,
            row.point.width,
        )
        for row, correct in zip(model.profile(points), accuracy)
    ]


def _measure_cascade(model, data, held_out, budgets, batch_sizes, repeats, verbose):
    collected = collect_logits(model, data, verbose=verbose)
    exit_ms = {size: measure_exit_latency(model, size, repeats) for size in batch_sizes}
    rows = [
        QueryRow(
            name,
            accuracy,
            madds,
            {size: exit_ms[size][exit] for size in batch_sizes},
            exit=exit,
        )
        for exit, (name, madds, accuracy) in enumerate(anytime(collected))
    ]
    if held_out is not None and model.num_exits > 1:
        costs = np.linspace(held_out.madds[0], held_out.madds[-1], budgets)
        for number, budget in enumerate(costs):
            thresholds = calibrate(held_out, max_madds=float(budget))
            answer = simulate(collected, thresholds)
            rows.append(
                QueryRow(
                    f"adaptive{number}",
                    float(np.mean(answer.classes == collected.labels)),
                    float(answer.madds.mean()),
                    {
                        size: float(np.take(exit_ms[size], answer.exits).mean())
                        for size in batch_sizes
                    },
                    thresholds=thresholds.values,
                )
            )
    return QueryTable(tuple(rows), model_fingerprint(model))
