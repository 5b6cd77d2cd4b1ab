"""Symmetric padding of convolutions."""

import keras
from keras import ops

from keras_resadapt.layers.arguments import as_pair


def pad_symmetrically(inputs, kernel_size, dilation_rate):
    """Pads `dilation * (kernel_size - 1) // 2` zeros on every side.

    Args:
        inputs: Tensor of shape (batch, height, width, channels).
        kernel_size: Pair of odd integers.
        dilation_rate: Pair of integers.
    """
    pads = [d * (k - 1) // 2 for k, d in zip(kernel_size, dilation_rate)]
    if not any(pads):
        return inputs
    return ops.pad(inputs, [(0, 0), *((p, p) for p in pads), (0, 0)])


class SymmetricPadding:
    """A convolution layer that pads the same number of pixels on every side.

    With a stride of 2 and an even size, Keras's `padding="same"` pads at the
    bottom and on the right only, and so computes another function than the
    published networks. Without a stride both paddings are equal, and "same"
    needs no copy of the input.

    The attribute `padding` is what the backend's convolution does after
    `padded` has run.
    """

    def __init__(
        self, *args, kernel_size, strides=1, dilation_rate=1, padding="same", **kwargs
    ):
        if padding != "same":
            raise ValueError(
                "`padding` must be 'same', which pads every side alike. "
                f"Received: padding={padding!r}"
            )
        super().__init__(
            *args,
            kernel_size=as_pair("kernel_size", kernel_size),
            strides=as_pair("strides", strides),
            dilation_rate=as_pair("dilation_rate", dilation_rate),
            **kwargs,
        )
        if self.data_format != "channels_last":
            raise ValueError(
                "`data_format` must be 'channels_last'. "
                f"Received: data_format={self.data_format!r}"
            )
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(
                "`kernel_size` must be odd to be padded symmetrically. "
                f"Received: kernel_size={self.kernel_size}"
            )
        self.padding = "same" if set(self.strides) == {1} else "valid"

    def padded(self, inputs):
        """Returns the inputs of the backend's convolution."""
        if self.padding == "same":
            return inputs
        return pad_symmetrically(inputs, self.kernel_size, self.dilation_rate)

    def compute_output_shape(self, input_shape):
        batch, *spatial, in_channels = input_shape
        spatial = [
            None if size is None else (size - 1) // stride + 1
            for size, stride in zip(spatial, self.strides)
        ]
        return (batch, *spatial, self.output_channels(in_channels))

    def output_channels(self, in_channels: int) -> int:
        """Returns the number of output channels for a number of input channels."""
        raise NotImplementedError

    def compute_output_spec(self, inputs, *args, **kwargs):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self):
        config = super().get_config()
        del config["padding"]  # follows from the strides
        return config
