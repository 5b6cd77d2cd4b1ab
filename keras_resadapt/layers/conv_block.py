"""Convolution, BatchNormalization, ReLU."""

import keras

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.folding import conv_norm

# Normal distribution of variance 2 / (kernel area x output channels)
HE_NORMAL_FAN_OUT = keras.initializers.VarianceScaling(
    2.0, mode="fan_out", distribution="untruncated_normal"
)


class ConvBlock(Block):
    """`activation(norm(conv(x)))`.

    Args:
        filters: Number of output channels.
        kernel_size: Odd integer.
        strides: Integer.
        layers: Constructors of its layers.
        activation: Name of the activation, `"relu"` or `"relu6"`.
        use_bias: Whether the convolution has a bias.
        kernel_initializer: Initializer of the convolution's kernel.
        ratio: Unit of the rounding in a slimmable network; see
            `layers.slim_channels`.

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
        kernel_initializer: str | dict | keras.Initializer = HE_NORMAL_FAN_OUT,
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
