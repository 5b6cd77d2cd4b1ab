"""Validation of arguments shared by several modules."""

import math
import numbers
import operator
from collections.abc import Iterable

import numpy as np

from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint


def check_network(model) -> None:
    """Raises a `TypeError` unless `model` is a network of this package."""
    if not isinstance(model, Network):
        raise TypeError(
            "`model` must be a network of this package, such as an `RSNet`. "
            f"Received: {type(model).__name__}, model={model!r}"
        )


def check_cascade(model) -> None:
    """Raises a `TypeError` unless `model` is a cascade."""
    if not isinstance(model, Cascade):
        raise TypeError(
            "`model` must be a `Cascade`, such as a `RANet`. An `RSNet` or a "
            "`MutualNet` becomes one with `PointCascade(model)`. "
            f"Received: {type(model).__name__}, model={model!r}"
        )


def check_points(
    points: Iterable[OperatingPoint] | OperatingPoint | None,
    model,
    unique: bool = False,
) -> tuple[OperatingPoint, ...]:
    """Validates the argument `points` of a function.

    Args:
        points: One or more operating points; None for all operating points of
            the model.
        model: A network.
        unique: Whether the names of the points must differ.

    Returns:
        The operating points as a tuple.

    Raises:
        ValueError: If there are no points, an element is not an operating
            point, or two points have the same name although they must differ.
    """
    if points is None:
        points = model.operating_points
    points = (points,) if isinstance(points, OperatingPoint) else tuple(points)
    if not points or not all(isinstance(point, OperatingPoint) for point in points):
        raise ValueError(
            "`points` must hold at least one operating point, and nothing else. "
            f"Received: points={points!r}"
        )
    if unique and len({point.name for point in points}) < len(points):
        raise ValueError(
            "`points` must have different names, which hold two digits of the "
            f"width. Received: points={points!r}"
        )
    return points


def check_integer(value, argument: str, minimum: int = 1) -> int:
    """Validates an integer argument.

    Args:
        value: An integer of Python or NumPy.
        argument: The name of the argument, for the error message.
        minimum: The smallest valid value.

    Returns:
        The value as a Python integer.

    Raises:
        ValueError: If the value is not an integer or is below the minimum.
    """
    if (
        isinstance(value, (bool, np.bool_))
        or not hasattr(value, "__index__")
        or getattr(value, "ndim", 0)
        or operator.index(value) < minimum
    ):
        kind = "a positive integer" if minimum == 1 else f"an integer from {minimum}"
        raise ValueError(f"`{argument}` must be {kind}. Received: {argument}={value!r}")
    return operator.index(value)


def check_number(
    value, argument: str, minimum: float = -math.inf, maximum: float = math.inf
) -> float:
    """Validates a finite real number.

    Args:
        value: A number of Python or NumPy; not a boolean.
        argument: The name of the argument, for the error message.
        minimum, maximum: The smallest and the largest valid value.

    Returns:
        The value as a Python float.

    Raises:
        ValueError: If the value is not a finite number in the range.
    """
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        try:
            number = float(value)
        except OverflowError:  # an integer with hundreds of digits
            number = math.inf
    if not (math.isfinite(number) and minimum <= number <= maximum):
        if maximum < math.inf:
            kind = f"a number in [{minimum:g}, {maximum:g}]"
        elif minimum > -math.inf:
            kind = f"a finite number of at least {minimum:g}"
        else:
            kind = "a finite number"
        raise ValueError(f"`{argument}` must be {kind}. Received: {argument}={value!r}")
    return number
