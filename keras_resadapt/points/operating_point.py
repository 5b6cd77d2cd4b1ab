"""The operating point: where on its cost axes a network runs."""

import dataclasses
import math
import numbers
import operator
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class DrawnWidth:
    """A width multiplier that is known only when the graph runs.

    It wraps the tensor, which Keras would otherwise cast to a layer's precision.

    Args:
        value: A scalar tensor of float64.
    """

    value: Any


@dataclasses.dataclass(frozen=True)
class DrawnResolution:
    """A resolution in pixels that is known only when the graph runs.

    Args:
        value: A scalar integer tensor.
    """

    value: Any


@keras.saving.register_keras_serializable("keras_resadapt")
@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """One way of running a resolution-adaptive network.

    An axis that a family lacks stays `None`. The point is passed through every
    call; a network has no "active" point.

    Args:
        resolution: Height and width of the input in pixels. Inside a graph, it can
            be a `DrawnResolution`.
        width: Width multiplier, 1.0 for the full width. Inside a graph, it can be
            a `DrawnWidth`.
        exit: Index of the exit whose logits are returned, from 0.
        branch: Index among sub-networks of the same resolution, from 0; None where
            resolutions differ.

    Raises:
        ValueError: An axis is out of its range.
    """

    resolution: int | DrawnResolution | None = None
    width: float | DrawnWidth | None = None
    exit: int | None = None
    branch: int | None = None

    def __post_init__(self):
        if not isinstance(self.resolution, DrawnResolution):
            self._check_integer("resolution", 1, "a positive integer (pixels)")
        self._check_integer("exit", 0, "a non-negative integer")
        self._check_integer("branch", 0, "a non-negative integer")
        width = self.width
        if width is None or isinstance(width, DrawnWidth):
            return
        if (
            isinstance(width, bool)
            or not isinstance(width, numbers.Real)
            or not 0 < width < math.inf
        ):
            raise ValueError(f"`width` must be positive. Received: width={width!r}")
        object.__setattr__(self, "width", float(width))

    def _check_integer(self, axis: str, least: int, rule: str) -> None:
        value: Any = getattr(self, axis)
        if value is None:
            return
        whole: Any = value
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            if value == value and abs(value) < math.inf and int(value) == value:  # type: ignore[call-overload]
                # A float such as 224.0
                whole = int(value)  # type: ignore[call-overload]
        if isinstance(whole, bool) or not hasattr(whole, "__index__") or whole < least:
            raise ValueError(f"`{axis}` must be {rule}. Received: {axis}={value!r}")
        object.__setattr__(self, axis, operator.index(whole))

    @property
    def name(self) -> str:
        """The one name of this point, such as `"r160_w075_exit2"`.

        It names the output, the metric, the row of a table and the signature.
        """
        parts = []
        if self.resolution is not None:
            parts.append(f"r{self.resolution}")
        if self.width is not None:
            parts.append(f"w{round(self.width * 100):03d}")
        if self.exit is not None:
            parts.append(f"exit{self.exit}")
        if self.branch is not None:
            parts.append(f"branch{self.branch}")
        return "_".join(parts)

    def call(self, layer, inputs, **kwargs) -> Any:
        """Calls a layer with the parts of this point that it depends on.

        A layer of this package names those axes in `depends_on`, such as
        `("resolution",)`, or the whole point, `("point",)`. A stock Keras layer
        depends on none and is called with its inputs alone.
        """
        return layer(inputs, **self.axes_of(layer), **kwargs)

    def affine(self, norm):
        """Returns the scale and offset of a normalization layer in inference."""
        return norm.affine(**self.axes_of(norm))

    def statistics(self, norm):
        """Returns the mean and variance variables of a normalization layer."""
        return norm.statistics(**self.axes_of(norm))

    def step(self, quantizer):
        """Returns the distance between the levels of an activation quantizer."""
        return quantizer.step(**self.axes_of(quantizer))

    def axes_of(self, layer) -> dict[str, Any]:
        """Returns the parts of this point that a layer depends on, by name."""
        return {
            axis: self if axis == "point" else getattr(self, axis)
            for axis in getattr(layer, "depends_on", ())
        }

    def axes(self) -> dict[str, Any]:
        """Returns the value of every axis, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(OperatingPoint)
        }

    def interpreted_by(self, interpreter: type, **fields) -> "OperatingPoint":
        """Returns an interpreter at this point.

        Args:
            interpreter: A subclass of `OperatingPoint`.
            **fields: The interpreter's own fields.
        """
        return interpreter(**self.axes(), **fields)

    def get_config(self) -> dict[str, Any]:
        return self.axes()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "OperatingPoint":
        return cls(**config)
