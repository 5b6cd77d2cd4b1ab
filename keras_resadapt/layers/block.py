"""Blocks of layers, and the layers to make them of."""

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
    """The constructors that make one architecture serve every variant.

    A variant (switchable, slimmable, quantized, ...) is a `LayerSet` in which
    some of them are replaced. Each takes the arguments of its default.

    Attributes:
        conv, depthwise, norm: The constructors.
        dense: Likewise, of the classifiers, which are the last layers.
        activation: Makes what ends in the input of convolutions, of the name
            of a function; `non_negative` says that nothing below 0 goes in.
        junction: Makes what other values go through that are computed with:
            summands, or what is concatenated.
        first_conv: As `conv`, for the convolution that takes the images; None
            for no difference.
        slimmable: Whether `conv` also takes `ratio`.
    """

    conv: Callable[..., keras.layers.Layer] = Conv2D
    depthwise: Callable[..., keras.layers.Layer] = DepthwiseConv2D
    norm: Callable[..., keras.layers.Layer] = BatchNormalization
    dense: Callable[..., keras.layers.Layer] = Dense
    activation: Callable[..., keras.layers.Layer] = _activation
    junction: Callable[..., keras.layers.Layer] = Activation
    first_conv: Callable[..., keras.layers.Layer] | None = None
    slimmable: bool = False

    def first(self) -> "LayerSet":
        """What the first convolution is made of."""
        return dataclasses.replace(self, conv=self.first_conv or self.conv)

    def before_join(self) -> "LayerSet":
        """For what ends in a concatenation, which is rounded as a whole."""
        return dataclasses.replace(self, activation=_activation)

    def scaled_conv(self, *args, ratio: float | None, **kwargs) -> keras.layers.Layer:
        """A `conv` whose channels a width rounds in units of `ratio`, where
        there are widths; see `layers.slim_channels`."""
        if self.slimmable:
            kwargs["ratio"] = ratio
        return self.conv(*args, **kwargs)


class Block(keras.layers.Layer):
    """Layers that are called with an operating point.

    Subclasses create their layers in the constructor and call each through
    `point.call(layer, x)`.
    """

    def build(self, input_shape):
        # The layers inside build themselves when they are first called.
        self.built = True

    def call(self, inputs, point: OperatingPoint, training=None):
        raise NotImplementedError
