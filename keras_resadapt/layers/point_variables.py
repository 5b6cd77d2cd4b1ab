"""Variables of single operating points, in a layer of a slimmable network."""

import contextlib


class PointVariables:
    """A layer that has variables for the full network, and more for each of
    the operating points that are added.

    A subclass has `full_resolution`, `full_width`, an empty dict `of_points`
    that is filled within `adding_to`, and `named_variables`.

    Attributes:
        of_points: A tuple of variables by point.
        what, how: What they are and what computes them, for errors.
    """

    what: str
    how: str
    of_points: dict

    @contextlib.contextmanager
    def adding_to(self, resolution, width):
        """Where variables can be added; gives the key in `of_points`."""
        # As Keras itself does where a built layer gets another variable.
        self._tracker.unlock()
        yield _key(resolution, width)
        self._tracker.lock()

    def forget_statistics(self) -> None:
        """Drops those of all points but the full network."""
        self._tracker.unlock()
        for variables in self.of_points.values():
            for variable in variables:
                self._untrack_variable(variable)
        self.of_points.clear()
        self._tracker.lock()

    def is_full(self, resolution, width) -> bool:
        """Whether it is the full network."""
        # A width that was drawn in training is a tensor.
        return (
            resolution == self.full_resolution
            and isinstance(width, (int, float))
            and width == self.full_width
        )

    def at_point(self, resolution, width) -> tuple:
        """The variables of a point that was added."""
        key = _key(resolution, width)
        if key not in self.of_points:
            full = _key(self.full_resolution, self.full_width)
            raise ValueError(
                f"There are no {self.what} of {key}, only "
                f"of: {', '.join([full, *self.of_points])}. Compute them on "
                f"training images: `keras_resadapt.{self.how}"
                "(model, data, points)`."
            )
        return self.of_points[key]

    # Under their points' names, so that no file fills those of another.

    def named_variables(self) -> dict:
        """All variables, by the names that they have in files."""
        raise NotImplementedError

    def named_at_points(self, *names) -> dict:
        """Those of single points."""
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
                f"The file's {self.what} are not of the "
                "model's operating points: build the model with the same "
                f"`calibrated`. The file has {sorted(store.keys())}, the "
                f"model {sorted(named)}"
            )
        for name, variable in named.items():
            variable.assign(store[name])


def _key(resolution, width) -> str:
    """A point's name with all digits of the width."""
    return f"r{resolution}_w{float(width)!r}"
