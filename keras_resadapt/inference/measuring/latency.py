"""The latency of each operating point on this machine."""

import functools
from collections.abc import Iterable

import keras
import numpy as np

from keras_resadapt.backend import require_tensorflow_or_jax
from keras_resadapt.checks import check_integer, check_network, check_points
from keras_resadapt.compiled import compile_function
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.timing import median_times


def measure_latency(
    model: Network,
    points: Iterable[OperatingPoint] | None = None,
    batch_size: int = 1,
    repeats: int = 30,
) -> dict[str, float]:
    """Returns the median milliseconds per image at each operating point.

    The forward passes are compiled, and the points take turns, so that a
    machine that slows down slows all of them equally.

    Args:
        model: A network of this package.
        points: Operating points; by default `model.operating_points`.
        batch_size: Images per pass.
        repeats: Timed passes per point, after two untimed ones.

    Returns:
        Milliseconds per image, by the name of the operating point.

    Raises:
        RuntimeError: On any backend other than TensorFlow and JAX.
        TypeError: If `model` is not a network of this package.
        ValueError: If an argument is outside its range.
    """
    require_tensorflow_or_jax("measure_latency")
    check_network(model)
    points = check_points(points, model)
    batch_size = check_integer(batch_size, "batch_size")
    check_integer(repeats, "repeats")

    def forward_pass(point):
        shape = (batch_size, *model.image_size_of(point), 3)
        run = compile_function(functools.partial(model.logits, point=point), shape)
        images = keras.ops.zeros(shape, "float32")
        return lambda: keras.tree.map_structure(np.asarray, run(images))

    times = median_times({point.name: forward_pass(point) for point in points}, repeats)
    return {name: milliseconds / batch_size for name, milliseconds in times.items()}
