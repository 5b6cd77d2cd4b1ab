"""What a quantization scheme is, and the layers that it makes."""

import dataclasses
from collections.abc import Callable, Iterable

import keras

from keras_resadapt.layers import Activation, LayerSet
from keras_resadapt.quantization.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How convolutions and dense layers are quantized.

    A subclass has the fields `first`, `last` and `private_ranges`, and defines
    `weights`, `activations` and `junctions`.
    """

    def check(self) -> None:
        """Raises an error where the scheme cannot run."""

    def weights(self) -> WeightQuantizer:
        """The quantizer of one layer's weights."""
        raise NotImplementedError

    def activations(
        self, function: str | None, non_negative: bool, name: str
    ) -> ActivationQuantizer | None:
        """The quantizer of what goes into convolutions; None for none.

        Args:
            function: The activation before it.
            non_negative: Whether nothing below 0 goes into that.
            name: Of the layer, for errors.
        """
        raise NotImplementedError

    def junctions(self) -> ActivationQuantizer | None:
        """The quantizer of other values that are computed with."""
        raise NotImplementedError

    def layers(
        self,
        layers: LayerSet,
        private: Callable[[ActivationQuantizer], keras.layers.Layer] | None = None,
    ) -> LayerSet:
        """The quantized variant of the layers of a family.

        Args:
            layers: The layers.
            private: Makes, of one quantizer, one with a state an operating
                point; None for a family whose points share all features.
        """
        self.check()

        def of_point(quantizer):
            if quantizer is None or private is None or not self.private_ranges:
                return quantizer
            return private(quantizer)

        def weighted(constructor):
            return lambda *args, **kwargs: constructor(
                *args, weight_quantizer=self.weights(), **kwargs
            )

        def conv_of_images(*args, **kwargs):
            return weighted(layers.conv)(
                *args, input_quantizer=of_point(self.junctions()), **kwargs
            )

        def dense(*args, **kwargs):
            return weighted(layers.dense)(
                *args,
                input_quantizer=of_point(self.junctions()),
                output_quantizer=of_point(self.junctions()),
                **kwargs,
            )

        def activation(function=None, non_negative=False, name=None):
            quantizer = self.activations(function, non_negative, name)
            return Activation(function, of_point(quantizer), name=name)

        def junction(name=None):
            return Activation(None, of_point(self.junctions()), name=name)

        return dataclasses.replace(
            layers,
            conv=weighted(layers.conv),
            depthwise=weighted(layers.depthwise),
            first_conv=conv_of_images
            if self.first
            else _in_float(layers.first_conv or layers.conv),
            dense=dense if self.last else _in_float(layers.dense),
            activation=activation,
            junction=junction,
        )

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> "Scheme":
        return cls(**config)


def _in_float(constructor):
    """Makes layers of which the scheme wants to leave the weights alone."""

    def construct(*args, **kwargs):
        layer = constructor(*args, **kwargs)
        layer.stays_in_float = True
        return layer

    return construct


def check_bits(scheme: str, allowed: Iterable[int], **bits: int) -> None:
    """Raises a `ValueError` for a number of bits that is not allowed."""
    allowed = tuple(allowed)
    for name, value in bits.items():
        if type(value) is not int or value not in allowed:
            raise ValueError(
                f"`{name}` of `{scheme}` must be one of {allowed}. "
                f"Received: {name}={value!r}"
            )


def check_network(model) -> None:
    """Raises a `TypeError` unless a model is a network of this package."""
    # The class itself is made of these schemes, and cannot be imported here.
    if not (isinstance(model, keras.Model) and hasattr(model, "operating_points")):
        raise TypeError(
            "`model` must be a network of this package, such as an `RSNet`. "
            f"Received: {type(model).__name__}"
        )


# Layers with weights that no scheme rounds
_FLOAT_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance", "bias")


def check_quantized(model: keras.Model) -> None:
    """Raises a `ValueError` that names a layer whose weights stay in float
    though the scheme does not say so."""
    for layer in model._flatten_layers(include_self=False):
        if getattr(layer, "stays_in_float", False) or (
            getattr(layer, "weight_quantizer", None) is not None
        ):
            continue
        kernels = [
            variable.path
            for variable in layer._trainable_variables
            if variable.name not in _FLOAT_WEIGHTS
        ]
        if kernels:
            raise ValueError(
                f"{type(layer).__name__} {layer.name!r} has no quantized form, "
                f"because its constructor was not one of the `LayerSet`'s. Its "
                f"weights: {', '.join(kernels)}"
            )
