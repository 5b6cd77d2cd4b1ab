"""Convolution, BatchNormalization, ReLU."""

import keras

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.points.operating_point import OperatingPoint

# Normal, variance 2 / (kernel area x output channels).
HE_NORMAL_FAN_OUT = keras.initializers.VarianceScaling(
    2.0, mode="fan_out", distribution="untruncated_normal"
)


def conv_norm(conv, norm, inputs, point: OperatingPoint, training):
    """`norm(conv(inputs))`; in inference as one convolution.

    Args:
        conv: A convolution without an activation.
        norm: The normalization after it.
        inputs: Tensor of shape (batch, height, width, channels).
        point: The operating point.
        training: Whether the statistics are those of the batch.
    """
    if training or not norm.built or not hasattr(norm, "affine"):
        return point.call(norm, point.call(conv, inputs))
    scale, offset = point.affine(norm)
    return point.call(conv, inputs, scale=scale, offset=offset)


class ConvBlock(Block):
    """`activation(norm(conv(x)))`.

    Args:
        filters: Number of output channels.
        kernel_size: Odd integer.
        strides: Integer.
        layers: The layers to build it from.
        activation: Name of the activation, `"relu"` or `"relu6"`.
        use_bias: Whether the convolution has a bias.
        kernel_initializer: Of the convolution.
        ratio: In a slimmable network; see `layers.slim_channels`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        point: The operating point.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        layers: LayerSet = LayerSet(),
        activation: str = "relu",
        use_bias: bool = False,
        kernel_initializer=HE_NORMAL_FAN_OUT,
        ratio: float | None = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.conv = layers.scaled_conv(
            filters,
            kernel_size,
            ratio=ratio,
            strides=strides,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer.clone(),
            name="conv",
        )
        self.bn = layers.norm(name="bn")
        self.activation = layers.activation(activation, name="activation")

    def call(self, inputs, point, training=None):
        x = conv_norm(self.conv, self.bn, inputs, point, training)
        return point.call(self.activation, x)
