"""The latency of each operating point on this machine."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_resadapt.backend import require_tensorflow_or_jax
from keras_resadapt.checks import check_network, check_points
from keras_resadapt.compiled import compile_function
from keras_resadapt.models.network import Network
from keras_resadapt.number_checks import check_integer
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.timing import median_times


def measure_latency(
    model: Network,
    points: Iterable[OperatingPoint] | None = None,
    batch_size: int = 1,
    repeats: int = 30,
    data: Iterable | None = None,
) -> dict[str, float]:
    """Returns the median milliseconds per image at each operating point.

    The forward passes are compiled, and the points take turns, so that a
    machine that slows down slows all of them equally.

    The latency of a detection network depends on the images: the more boxes it finds,
    the more its heads and its non-maximum suppression compute. Pass images of the
    application as `data`; on the default images, few boxes are found.

    Args:
        model: A network of this package.
        points: Operating points; by default `model.operating_points`.
        batch_size: Images per pass.
        repeats: Timed passes per point, after two untimed ones.
        data: For a detection network: batches (images, targets) as for
            `Network.score_points`. The passes run their images in turn, the same
            images at all points. All of them are kept in memory. By default, images
            of zeros.

    Returns:
        Milliseconds per image, by the name of the operating point.

    Raises:
        RuntimeError: On any backend other than TensorFlow and JAX.
        TypeError: If `model` is not a network of this package.
        ValueError: If an argument is outside its range, or `data` has no batches or
            is passed for a network without detections.
    """
    require_tensorflow_or_jax("measure_latency")
    check_network(model)
    points = check_points(points, model)
    batch_size = check_integer(batch_size, "batch_size")
    check_integer(repeats, "repeats")

    if data is None:
        functions = {
            point.name: _pass_over_zeros(model, point, batch_size) for point in points
        }
    else:
        functions = _passes_over(model, points, batch_size, data)
    times = median_times(functions, repeats)
    return {name: milliseconds / batch_size for name, milliseconds in times.items()}


def _pass_over_zeros(
    model: Network, point: OperatingPoint, batch_size: int
) -> Callable[[], Any]:
    """Returns a function that runs a batch of zeros."""
    shape = (batch_size, *model.image_size_of(point), 3)
    run = compile_function(functools.partial(model.logits, point=point), shape)
    images = keras.ops.zeros(shape, "float32")
    return lambda: keras.tree.map_structure(np.asarray, run(images))


def _passes_over(
    model: Network, points: Iterable[OperatingPoint], batch_size: int, data: Iterable
) -> dict[str, Callable[[], Any]]:
    """Returns one function per point, which runs the next images at each call."""
    if model.task.make_scorer() is None:
        raise ValueError(
            "`data` must be None for a network without detections, whose latency does "
            f"not depend on the images. Received: a network for {model.task}"
        )
    batches = list(_batches_of(data, batch_size))
    if not batches:
        raise ValueError("`data` must have at least one batch.")
    views: dict[int | None, list] = {}
    functions: dict[str, Callable[[], Any]] = {}
    for point in points:
        if point.resolution not in views:
            views[point.resolution] = [
                model.view_at(*batch, point) for batch in batches
            ]
        turns = itertools.cycle(views[point.resolution])
        functions[point.name] = functools.partial(_run_next, model, point, turns)
    return functions


def _batches_of(data: Iterable, batch_size: int) -> Iterator[tuple[Any, dict]]:
    """Yields the images of batches of another size, and their sizes on the canvas.

    Images of a batch that is too small are repeated.
    """
    for images, targets in data:
        batch = keras.tree.map_structure(
            np.asarray, (images, {"size": targets["size"]})
        )
        number = len(keras.tree.flatten(batch)[0])
        for start in range(0, number, batch_size):
            rows = np.arange(start, start + batch_size) % number
            yield keras.tree.map_structure(lambda x: x[rows], batch)


def _run_next(model: Network, point: OperatingPoint, turns: Iterator) -> Any:
    return model.run_at(point, *next(turns))
