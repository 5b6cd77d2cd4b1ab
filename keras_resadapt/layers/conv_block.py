"""Convolution, BatchNormalization, ReLU."""

import keras

from keras_resadapt.layers.block import Block
from keras_resadapt.layers.block import LayerSet

# Normal, variance 2 / (kernel area x output channels).
HE_NORMAL_FAN_OUT = keras.initializers.VarianceScaling(
    2.0, mode="fan_out", distribution="untruncated_normal"
)


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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.conv = layers.conv(
            filters,
            kernel_size,
            strides=strides,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer.clone(),
            name="conv",
        )
        self.bn = layers.norm(name="bn")
        self.activation = keras.activations.get(activation)

    def call(self, inputs, point, training=None):
        return self.activation(
            point.call(self.bn, point.call(self.conv, inputs))
        )
