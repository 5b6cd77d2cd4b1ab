"""The head that returns masks of boxes."""

import keras
from keras import ops

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.conv_block import HE_NORMAL_FAN_OUT

_CONVS = 4


class Upsampling(keras.layers.Conv2DTranspose):
    """A transposed 2x2 convolution of stride 2, which doubles height and width.

    Its windows do not overlap, so that it is a matrix product.

    Args:
        filters: Number of output channels.
        **kwargs: Further arguments of `keras.layers.Conv2DTranspose`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(filters, kernel_size=2, strides=2, padding="valid", **kwargs)

    def call(self, inputs):
        batch, height, width, channels = ops.shape(inputs)
        # From (2, 2, filters, channels)
        kernel = ops.reshape(self.kernel, (-1, channels))
        x = ops.matmul(ops.reshape(inputs, (-1, channels)), ops.transpose(kernel))
        x = ops.reshape(x, (batch * height, width, 2, 2 * self.filters))
        x = ops.transpose(x, (0, 2, 1, 3))
        x = ops.reshape(x, (batch, 2 * height, 2 * width, self.filters))
        return self.activation(x + ops.cast(self.bias, x.dtype))


class MaskHead(Block):
    """Four 3x3 convolutions, a transposed one, and a mask of each class.

    Args:
        num_classes: Number of classes, without the background.
        channels: Number of channels.
        layers: The layers that it is made of.

    Call arguments:
        inputs: Features of boxes, of shape (boxes, size, size, channels).
        point: The operating point.

    Returns:
        float32 logits of shape (boxes, 2 * size, 2 * size, num_classes + 1), the
        background first.

    Reference:
        Mask R-CNN, figure 4 (https://arxiv.org/abs/1703.06870).
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.aligned = layers.junction(name="aligned")
        steps = range(1, _CONVS + 1)
        self.convs = [_conv(layers, channels, 3, name=f"conv{i}") for i in steps]
        self.acts = [layers.activation("relu", name=f"act{i}") for i in steps]
        self.upsampling = Upsampling(
            channels, kernel_initializer=HE_NORMAL_FAN_OUT.clone(), name="upsampling"
        )
        # A quantized network rounds its inputs and outputs alone.
        self.upsampling.stays_in_float = True
        self.last_act = layers.activation("relu", name="last_act")
        last = layers.last()
        self.masks = _conv(last, num_classes + 1, 1, name="masks")
        self.out = last.junction(name="out")

    def call(self, inputs, point, training=None):
        x = point.call(self.aligned, inputs)
        for conv, act in zip(self.convs, self.acts):
            x = point.call(act, point.call(conv, x))
        x = point.call(self.last_act, point.call(self.upsampling, x))
        return ops.cast(point.call(self.out, point.call(self.masks, x)), "float32")


def _conv(layers: LayerSet, filters: int, kernel_size: int, *, name: str):
    return layers.scaled_conv(
        filters,
        kernel_size,
        ratio=None,
        use_bias=True,
        kernel_initializer=HE_NORMAL_FAN_OUT.clone(),
        name=name,
    )
