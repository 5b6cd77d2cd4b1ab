"""Measurement of the rows of a query table."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np

from keras_resadapt.inference.calibrating.calibration import calibrate
from keras_resadapt.inference.measuring.evaluation import anytime, simulate
from keras_resadapt.inference.measuring.exit_latency import measure_exit_latency
from keras_resadapt.inference.measuring.latency import measure_latency
from keras_resadapt.inference.measuring.query_row import QueryRow
from keras_resadapt.inference.running.collecting import collect_logits, measure_scores
from keras_resadapt.inference.storing.point_logits import PointLogits
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.number_checks import check_integer
from keras_resadapt.points.operating_point import OperatingPoint

# Number of images on which the latency of a detection network is measured
_IMAGES = 16


@dataclasses.dataclass(frozen=True)
class LatencySettings:
    """How latencies are measured.

    Args:
        batch_sizes: Batch sizes, each a positive integer.
        repeats: Timed passes of each.

    Raises:
        ValueError: If there are no batch sizes or a number is not positive.
    """

    batch_sizes: Sequence[int] = (1,)
    repeats: int = 20

    def __post_init__(self):
        sizes = tuple(check_integer(size, "batch_sizes") for size in self.batch_sizes)
        if not sizes:
            raise ValueError(
                "`batch_sizes` must hold at least one positive integer. "
                f"Received: batch_sizes={self.batch_sizes!r}"
            )
        object.__setattr__(self, "batch_sizes", sizes)
        object.__setattr__(self, "repeats", check_integer(self.repeats, "repeats"))

    def measure(self, function: Callable, *args) -> dict:
        """Returns `function(*args, batch_size, repeats)` by batch size."""
        return {size: function(*args, size, self.repeats) for size in self.batch_sizes}


def grid(
    model: Network,
    widths: Sequence[float] | float,
    resolutions: Sequence[int] | None,
) -> list[OperatingPoint]:
    """Returns the operating points of a switchable network to measure."""
    resolutions = tuple(model.resolutions if resolutions is None else resolutions)
    if not resolutions:
        raise ValueError(
            "`resolutions` must hold at least one resolution. "
            f"Received: resolutions={resolutions}"
        )
    if hasattr(model, "grid"):
        return model.grid(widths, resolutions)
    return [OperatingPoint(resolution=resolution) for resolution in resolutions]


def measure_points(
    model: Network,
    data: Iterable,
    points: Sequence[OperatingPoint],
    latency: LatencySettings,
    verbose: bool,
) -> list[QueryRow]:
    """Returns one row per operating point of a switchable network."""
    measure = measure_latency
    if model.task.make_scorer() is None:
        accuracy = measure_scores(model, data, points, verbose)
        scores = [{}] * len(points)
    else:
        batches = iter(data)
        first = _first_batches(batches)
        measure = functools.partial(measure_latency, data=first)
        measured = model.score_points(itertools.chain(first, batches), points)
        scores = [_without_nan(measured[point.name]) for point in points]
        headline = model.task.make_scorer().headline
        accuracy = [of_point.get(headline, 0.0) for of_point in scores]
    ms = latency.measure(measure, model, points)
    return [
        QueryRow(
            row.point.name,
            correct,
            row.madds,
            {size: ms[size][row.point.name] for size in ms},
            row.point.resolution,
            row.point.width,
            scores=of_point,
        )
        for row, correct, of_point in zip(model.profile(points), accuracy, scores)
    ]


def _first_batches(batches: Iterator) -> list:
    """Takes batches until they have the images on which latency is measured."""
    taken, number = [], 0
    for batch in batches:
        taken.append(batch)
        number += len(keras.tree.flatten(batch)[0])
        if number >= _IMAGES:
            break
    return taken


def _without_nan(scores: dict[str, float]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if not np.isnan(score)}


def measure_cascade(
    model: Cascade,
    data: Iterable,
    held_out: PointLogits | None,
    budgets: int,
    latency: LatencySettings,
    verbose: bool,
) -> list[QueryRow]:
    """Returns one row per exit and, with `held_out`, one row per budget."""
    collected = collect_logits(model, data, verbose=verbose)
    exit_ms = latency.measure(measure_exit_latency, model)
    rows = [
        QueryRow(
            name,
            accuracy,
            madds,
            {size: exit_ms[size][exit] for size in exit_ms},
            exit=exit,
        )
        for exit, (name, madds, accuracy) in enumerate(anytime(collected))
    ]
    if held_out is None or model.num_exits == 1:
        return rows
    costs = np.linspace(held_out.madds[0], held_out.madds[-1], budgets)
    for number, budget in enumerate(costs):
        thresholds = calibrate(held_out, max_madds=float(budget))
        prediction = simulate(collected, thresholds)
        rows.append(
            QueryRow(
                f"adaptive{number}",
                float(np.mean(prediction.classes == collected.labels)),
                float(prediction.madds.mean()),
                {
                    size: float(np.take(exit_ms[size], prediction.exits).mean())
                    for size in exit_ms
                },
                thresholds=thresholds.values,
            )
        )
    return rows
