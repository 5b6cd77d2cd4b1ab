"""Variables per operating point, in a layer of a slimmable network."""

import contextlib
import numbers
from collections.abc import Callable
from typing import Any


class PointVariables:
    """A layer with variables for the full network and for added points.

    A subclass defines `full_resolution`, `full_width`, an empty dict
    `of_points` that is filled within `adding_to`, and `named_variables`.

    Attributes:
        of_points: A tuple of variables by point.
        what: What the variables are, for errors.
        how: The function that computes them, for errors.
    """

    what: str
    how: str
    of_points: dict
    full_resolution: int
    full_width: float
    # Of `keras.layers.Layer`
    _tracker: Any
    _untrack_variable: Callable

    @contextlib.contextmanager
    def adding_to(self, resolution, width):
        """Permits new variables, and yields their key in `of_points`."""
        # Keras has no public way to add a variable to a built layer. Its own
        # layers unlock their tracker as well, in `Dense.enable_lora`.
        self._tracker.unlock()
        yield _key(resolution, width)
        self._tracker.lock()

    def forget_statistics(self) -> None:
        """Drops the variables of all points but the full network."""
        # Keras only removes variables that are attributes by public means.
        for variables in self.of_points.values():
            for variable in variables:
                self._untrack_variable(variable)
        # The dict is tracked as well, and locked after `build`.
        self._tracker.unlock()
        self.of_points.clear()
        self._tracker.lock()

    def is_full(self, resolution, width) -> bool:
        """Returns whether these are the axes of the full network."""
        # A width that is drawn in training is a `DrawnWidth`.
        return (
            resolution == self.full_resolution
            and isinstance(width, numbers.Real)
            and width == self.full_width
        )

    def at_point(self, resolution, width) -> tuple:
        """Returns the variables of a point that was added."""
        key = _key(resolution, width)
        if key not in self.of_points:
            full = _key(self.full_resolution, self.full_width)
            raise ValueError(
                f"There are no {self.what} of {key}, only of "
                f"{', '.join([full, *self.of_points])}. Compute them on "
                f"training images with `keras_resadapt.{self.how}"
                "(model, data, points)`."
            )
        return self.of_points[key]

    def named_variables(self) -> dict:
        """Returns all variables by their names in files.

        The names contain the points, so that a file of other points cannot be
        loaded by mistake.
        """
        raise NotImplementedError

    def named_at_points(self, *names) -> dict:
        """Returns the variables of the added points by their names in files."""
        return {
            f"{key}_{name}": variable
            for key, variables in self.of_points.items()
            for name, variable in zip(names, variables)
        }

    def save_own_variables(self, store):
        for name, variable in self.named_variables().items():
            store[name] = variable.numpy()

    def load_own_variables(self, store):
        named = self.named_variables()
        if set(named) != set(store.keys()):
            raise ValueError(
                f"The file contains {self.what} for other operating points than "
                "the model's: build the model with the same `calibrated`. The "
                f"file has {sorted(store.keys())}, the model {sorted(named)}."
            )
        for name, variable in named.items():
            variable.assign(store[name])


def _key(resolution, width) -> str:
    """Returns the name of a point with all digits of the width."""
    return f"r{resolution}_w{float(width)!r}"
