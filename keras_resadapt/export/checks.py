"""What all exports ask of their arguments."""

import os

from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint


def check_model(model) -> None:
    """Raises a `TypeError` unless it is a classifier of this package."""
    if not isinstance(model, Network):
        raise TypeError(
            "`model` must be a classifier of this package, such as an "
            f"`RSNet`. Received: model={model!r} of type {type(model)}"
        )


def check_path(path) -> str:
    """The absolute path, of which there is nothing yet."""
    path = os.fspath(path)
    if not path or "://" in path:
        raise ValueError(f"`path` must be on a local disk. Received: path={path!r}")
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.lexists(path):
        raise FileExistsError(
            "`path` must not exist yet: export a new version beside it, or "
            f"remove it. Received: path={path!r}"
        )
    return path


def check_points(points, model) -> tuple[OperatingPoint, ...]:
    """The points, by default all of the model."""
    points = tuple(model.operating_points if points is None else points)
    if (
        not points
        or not all(isinstance(point, OperatingPoint) for point in points)
        or len({point.name for point in points}) < len(points)
    ):
        raise ValueError(
            "`points` must be one or more operating points of different "
            f"names. Received: points={points!r}"
        )
    return points
