"""Quantization schemes, and the layers that they quantize."""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import keras

from keras_resadapt.layers.activation import Activation
from keras_resadapt.layers.block import LayerSet
from keras_resadapt.layers.convolution import Conv2D, DepthwiseConv2D
from keras_resadapt.layers.dense import Dense
from keras_resadapt.layers.slimmable import (
    SlimmableConv2D,
    SlimmableDense,
    SlimmableDepthwiseConv2D,
)
from keras_resadapt.quantization.activation import QuantizedActivation
from keras_resadapt.quantization.convolution import (
    QuantizedConv2D,
    QuantizedDepthwiseConv2D,
    QuantizedSlimmableConv2D,
    QuantizedSlimmableDepthwiseConv2D,
)
from keras_resadapt.quantization.dense import QuantizedDense, QuantizedSlimmableDense
from keras_resadapt.quantization.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
)

# The quantized form of each float layer
_QUANTIZED_LAYERS = {
    Conv2D: QuantizedConv2D,
    DepthwiseConv2D: QuantizedDepthwiseConv2D,
    Dense: QuantizedDense,
    SlimmableConv2D: QuantizedSlimmableConv2D,
    SlimmableDepthwiseConv2D: QuantizedSlimmableDepthwiseConv2D,
    SlimmableDense: QuantizedSlimmableDense,
}


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The way in which convolutions and dense layers are quantized.

    A subclass has the fields `first`, `last` and `private_ranges`, and defines
    `weights`, `activations` and `junctions`.
    """

    def check(self) -> None:
        """Raises an error if the scheme cannot run here."""

    def weights(self) -> WeightQuantizer:
        """Returns the quantizer of one layer's weights."""
        raise NotImplementedError

    def activations(
        self, function: str | None, non_negative: bool, name: str
    ) -> ActivationQuantizer | None:
        """Returns the quantizer of a convolution's inputs; None for none.

        Args:
            function: The activation whose outputs are rounded.
            non_negative: Whether its inputs have no values below 0.
            name: Name of the layer, for errors.
        """
        raise NotImplementedError

    def junctions(self) -> ActivationQuantizer | None:
        """Returns the quantizer of other values, such as summands."""
        raise NotImplementedError

    def layer_forms(self) -> dict[type, type]:
        """Returns the quantized form of each layer with weights."""
        return _QUANTIZED_LAYERS

    def layers(
        self,
        layers: LayerSet,
        private: Callable[[ActivationQuantizer], keras.layers.Layer] | None = None,
    ) -> LayerSet:
        """Returns the quantized variant of the layers of a family.

        Args:
            layers: The float layers.
            private: Wraps a quantizer with separate state for each operating
                point; None for a family whose points share all features.
        """
        self.check()
        if private is None or not self.private_ranges:  # type: ignore[attr-defined]
            private = lambda quantizer: quantizer

        def junctions():
            quantizer = self.junctions()
            return None if quantizer is None else private(quantizer)

        def activation(function=None, non_negative=False, name=None):
            quantizer = self.activations(function, non_negative, name)
            if quantizer is None:
                return Activation(function, name=name)
            return QuantizedActivation(
                function, quantizer=private(quantizer), name=name
            )

        def junction(name=None):
            quantizer = junctions()
            if quantizer is None:
                return Activation(None, name=name)
            return QuantizedActivation(None, quantizer=quantizer, name=name)

        weighted = self._weighted
        first: bool = self.first  # type: ignore[attr-defined]
        last: bool = self.last  # type: ignore[attr-defined]
        first_conv = layers.first_conv or layers.conv
        return dataclasses.replace(
            layers,
            conv=weighted(layers.conv),
            depthwise=weighted(layers.depthwise),
            first_conv=weighted(first_conv, input_quantizer=junctions)
            if first
            else _in_float(first_conv),
            dense=weighted(
                layers.dense, input_quantizer=junctions, output_quantizer=junctions
            )
            if last
            else _in_float(layers.dense),
            last_conv=None if last else _in_float(layers.conv),
            last_junction=None if last else layers.junction,
            activation=activation,
            junction=junction,
        )

    def _weighted(self, constructor, **quantizers):
        """Returns the constructor of the quantized form of a float layer.

        Args:
            constructor: A float layer's class, or a `functools.partial` of it.
            **quantizers: Functions that make its further quantizers.
        """
        form = quantized_form(constructor, self.layer_forms())

        def construct(*args, **kwargs):
            made = {name: make() for name, make in quantizers.items()}
            return form(*args, weight_quantizer=self.weights(), **made, **kwargs)

        return construct

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> "Scheme":
        return cls(**config)


def quantized_form(constructor: Callable, forms: dict[type, type]) -> Callable:
    """Returns the constructor of the quantized form of a float layer.

    Args:
        constructor: A float layer's class, or a `functools.partial` of it.
        forms: The quantized class of each float class.

    Raises:
        ValueError: For a constructor without a quantized form.
    """
    if isinstance(constructor, functools.partial):
        form = quantized_form(constructor.func, forms)
        return functools.partial(form, *constructor.args, **constructor.keywords)
    if constructor not in forms:
        raise ValueError(
            f"A layer of the `LayerSet` has no quantized form: {constructor}. "
            f"Layers with one: {', '.join(layer.__name__ for layer in forms)}"
        )
    return forms[constructor]


def _in_float(constructor):
    """Returns a constructor of layers whose weights stay in float."""

    def construct(*args, **kwargs):
        layer = constructor(*args, **kwargs)
        layer.stays_in_float = True
        return layer

    return construct


def check_bits(scheme: str, allowed: Iterable[int], **bits: int) -> None:
    """Raises a `ValueError` for a number of bits that is not supported."""
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


# Variables that no scheme rounds
_FLOAT_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance", "bias")


def check_quantized(model: keras.Model) -> None:
    """Raises a `ValueError` for a layer whose weights stay in float by mistake."""
    # Keras lists all nested layers, and the variables of a layer without those
    # of its sublayers, in private attributes only.
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
                f"because its constructor did not come from the `LayerSet`. Its "
                f"weights: {', '.join(kernels)}"
            )
