"""What an operating point costs in milliseconds, here and now."""

import functools
import statistics
import time
from collections.abc import Iterable

import keras
import numpy as np

from keras_resadapt.compiled import compile_function
from keras_resadapt.points.operating_point import OperatingPoint


def measure_latency(
    model,
    points: Iterable[OperatingPoint] | None = None,
    batch_size: int = 1,
    repeats: int = 30,
) -> dict[str, float]:
    """Median milliseconds an image of a compiled pass at each point.

    The points take turns, so that a machine that slows down slows them all.

    Args:
        model: A `Network`.
        points: What to measure; by default `model.operating_points`.
        batch_size: Images a pass.
        repeats: Timed passes a point, after two that are not.

    Returns:
        Milliseconds an image by the point's name.
    """
    if batch_size < 1 or repeats < 1:
        raise ValueError(
            "`batch_size` and `repeats` must be positive. Received: "
            f"batch_size={batch_size}, repeats={repeats}"
        )
    points = list(points or model.operating_points)
    shapes = {
        point.name: (batch_size, size, size, 3)
        for point in points
        for size in [model.resolution_of(point)]
    }
    passes = {
        point.name: compile_function(
            functools.partial(model.logits, point=point), shapes[point.name]
        )
        for point in points
    }
    images = {name: keras.ops.zeros(shape, "float32") for name, shape in shapes.items()}
    times = {name: [] for name in passes}
    for turn in range(repeats + 2):
        for name, run in passes.items():
            start = time.perf_counter()
            np.asarray(run(images[name]))
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    return {
        name: 1e3 * statistics.median(values) / batch_size
        for name, values in times.items()
    }
