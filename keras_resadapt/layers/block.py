"""Blocks of layers, and the constructors of their layers."""

import dataclasses
from collections.abc import Callable

import keras

from keras_resadapt.layers.activation import Activation
from keras_resadapt.layers.batch_normalization import BatchNormalization
from keras_resadapt.layers.convolution import Conv2D, DepthwiseConv2D
from keras_resadapt.layers.dense import Dense
from keras_resadapt.points.operating_point import OperatingPoint


def _activation(function=None, non_negative=False, **kwargs) -> Activation:
    return Activation(function, **kwargs)


@dataclasses.dataclass(frozen=True)
class LayerSet:
    """The constructors with which one architecture serves every variant.

    A variant (switchable, slimmable, quantized, ...) is a `LayerSet` in which
    some constructors are replaced. Each takes the arguments of its default.

    Attributes:
        conv: Constructor of convolutions.
        depthwise: Constructor of depthwise convolutions.
        norm: Constructor of normalizations.
        dense: Constructor of the dense layers of classifiers.
        activation: Constructor of the layers before convolutions, from the
            name of a function. `non_negative` states that their inputs have no
            values below 0.
        junction: Constructor of the layers before other computations: sums and
            concatenations.
        first_conv: Constructor of the convolution that takes the images; None
            for `conv`.
        last_conv: Constructor of a convolution that computes outputs; None for
            `conv`.
        last_junction: Constructor of the layer after it; None for `junction`.
        slimmable: Whether `conv` also takes `ratio`.
    """

    conv: Callable[..., keras.layers.Layer] = Conv2D
    depthwise: Callable[..., keras.layers.Layer] = DepthwiseConv2D
    norm: Callable[..., keras.layers.Layer] = BatchNormalization
    dense: Callable[..., keras.layers.Layer] = Dense
    activation: Callable[..., keras.layers.Layer] = _activation
    junction: Callable[..., keras.layers.Layer] = Activation
    first_conv: Callable[..., keras.layers.Layer] | None = None
    last_conv: Callable[..., keras.layers.Layer] | None = None
    last_junction: Callable[..., keras.layers.Layer] | None = None
    slimmable: bool = False

    def first(self) -> "LayerSet":
        """Returns the constructors for the layers that take the images."""
        return dataclasses.replace(self, conv=self.first_conv or self.conv)

    def last(self) -> "LayerSet":
        """Returns the constructors for the layers that compute the outputs."""
        return dataclasses.replace(
            self,
            conv=self.last_conv or self.conv,
            junction=self.last_junction or self.junction,
        )

    def before_join(self) -> "LayerSet":
        """Returns the constructors for layers that end in a concatenation.

        A quantized network rounds the concatenation as a whole, and not its
        parts.
        """
        return dataclasses.replace(self, activation=_activation)

    def scaled_conv(self, *args, ratio: float | None, **kwargs) -> keras.layers.Layer:
        """Returns a `conv`; a slimmable one rounds its channels by `ratio`.

        Args:
            *args: Arguments of `conv`.
            ratio: Unit of the rounding; see `layers.slim_channels`.
            **kwargs: Keyword arguments of `conv`.
        """
        if self.slimmable:
            kwargs["ratio"] = ratio
        return self.conv(*args, **kwargs)


class Block(keras.layers.Layer):
    """Layers that are called with an operating point.

    Subclasses create their layers in the constructor and call each through
    `point.call(layer, x)`. They are part of a model whose configuration
    creates them, and have no configuration of their own.
    """

    _output_shapes = None

    def build(self, input_shape):
        # The layers inside build themselves when they are first called.
        self.built = True

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        if self._output_shapes is None:
            self._output_shapes = keras.tree.map_structure(
                lambda x: (None, *x.shape[1:]), outputs
            )
        return outputs

    def call(self, inputs, point: OperatingPoint, training=None):
        raise NotImplementedError

    def compute_output_spec(self, *args, **kwargs):
        # Keras would take the shapes below, and run nothing, which builds nothing.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, input_shape):
        """Returns the shapes of the first call, which `summary` shows."""
        if self._output_shapes is None:
            raise NotImplementedError
        return self._output_shapes
