"""The classifier of an early exit."""

import keras
from keras import ops

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.conv_block import HE_NORMAL_FAN_OUT, ConvBlock

# Uniform in +-1 / sqrt(fan_in), as in PyTorch
UNIFORM_FAN_IN = keras.initializers.VarianceScaling(
    1 / 3, mode="fan_in", distribution="uniform"
)


class ExitClassifier(Block):
    """Two 3x3 `ConvBlock`s of stride 2, pooling, a dense layer.

    The classifier of MSDNet and RANet, for features of at least `MIN_SIZE`
    pixels in height and width.

    Args:
        filters: Channels of the convolutions.
        num_classes: Number of classes.
        layers: Constructors of its layers.
        kernel_initializer: Initializer of the convolutions' kernels.
        bias_initializer: Initializer of the dense layer's bias.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        point: The operating point.

    Returns:
        float32 logits of shape (batch, classes).
    """

    MIN_SIZE = 5  # at least 2 x 2 pixels are left to pool

    def __init__(
        self,
        filters: int,
        num_classes: int,
        layers: LayerSet = LayerSet(),
        kernel_initializer: str | dict | keras.Initializer = HE_NORMAL_FAN_OUT,
        bias_initializer: str | dict | keras.Initializer = "zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.convs = [
            ConvBlock(
                filters,
                3,
                2,
                layers,
                kernel_initializer=kernel_initializer,
                name=f"conv{i}",
            )
            for i in range(2)
        ]
        self.dense = layers.dense(
            num_classes,
            kernel_initializer=UNIFORM_FAN_IN.clone(),
            bias_initializer=bias_initializer,
            name="dense",
        )

    def call(self, inputs, point, training=None):
        x = inputs
        for conv in self.convs:
            x = conv(x, point=point)
        # The mean of a 2x2 average pooling, which drops an odd row and column.
        # For 224 pixels (or 32) there is one such pixel.
        height, width = (size - size % 2 for size in x.shape[1:3])
        x = ops.mean(x[:, :height, :width], axis=(1, 2))
        return ops.cast(point.call(self.dense, x), "float32")
