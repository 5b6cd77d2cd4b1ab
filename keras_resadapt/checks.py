"""Validation of arguments shared by several modules."""

from collections.abc import Iterable

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
