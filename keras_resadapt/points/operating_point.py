"""The operating point: where on its cost axes a network runs."""

import dataclasses
import numbers
import operator
from typing import Any


@dataclasses.dataclass(frozen=True)
class DrawnWidth:
    """A width multiplier that is known only when the graph runs.

    Not the tensor itself, which Keras would cast to a layer's precision.

    Args:
        value: A scalar tensor of float64.
    """

    value: Any


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """One way of running a resolution-adaptive network.

    An axis that a family lacks stays `None`. A point is passed through every
    call; nothing is ever switched "active".

    Args:
        resolution: Height and width of the input in pixels.
        width: Width multiplier, 1.0 for the full width; inside a graph, it
            can be a `DrawnWidth`.
        exit: Index of the classifier that answers, from 0.
    """

    resolution: int | None = None
    width: float | DrawnWidth | None = None
    exit: int | None = None

    def __post_init__(self):
        if hasattr(self.resolution, "__index__"):  # NumPy's, say
            resolution = operator.index(self.resolution)
            object.__setattr__(self, "resolution", resolution)
        if self.resolution is not None and not (
            isinstance(self.resolution, int) and self.resolution > 0
        ):
            raise ValueError(
                "`resolution` must be a positive integer (pixels). "
                f"Received: resolution={self.resolution!r}"
            )
        if not (
            self.width is None
            or isinstance(self.width, DrawnWidth)
            or (isinstance(self.width, numbers.Real) and self.width > 0)
        ):
            raise ValueError(
                f"`width` must be positive. Received: width={self.width!r}"
            )
        if self.exit is not None and not (
            isinstance(self.exit, int) and self.exit >= 0
        ):
            raise ValueError(
                f"`exit` must be an integer from 0. Received: exit={self.exit!r}"
            )

    @property
    def name(self) -> str:
        """The one name of this point, `"r160_w075_exit2"`.

        It names the output, the metric, the table's row and the signature.
        """
        parts = []
        if self.resolution is not None:
            parts.append(f"r{self.resolution}")
        if self.width is not None:
            parts.append(f"w{round(self.width * 100):03d}")
        if self.exit is not None:
            parts.append(f"exit{self.exit}")
        return "_".join(parts)

    def call(self, layer, inputs, **kwargs) -> Any:
        """Calls a layer with the parts of this point that it depends on.

        A layer of this package names those axes in `depends_on`, such as
        `("resolution",)`, or the whole of it, `("point",)`; a stock Keras
        layer has none and is called plainly.
        """
        return layer(inputs, **self._axes(layer), **kwargs)

    def affine(self, norm):
        """The scale and offset of a normalization layer in inference, with
        the parts of this point that it depends on."""
        return norm.affine(**self._axes(norm))

    def statistics(self, norm):
        """The mean and variance variables of a normalization layer, likewise."""
        return norm.statistics(**self._axes(norm))

    def step(self, quantizer):
        """The distance of an activation quantizer's levels, likewise."""
        return quantizer.step(**self._axes(quantizer))

    def _axes(self, layer) -> dict[str, Any]:
        return {
            axis: self if axis == "point" else getattr(self, axis)
            for axis in getattr(layer, "depends_on", ())
        }
