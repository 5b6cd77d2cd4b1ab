"""Convolutions over few channels, within the buffers of TensorFlow's kernels.

The gradients of two kinds of convolution write past their buffers (TensorFlow
2.21 with oneDNN): any over 4 to 7 channels, on processors with AVX2, and 1x1
ones with a stride over fewer than 16 channels.
"""

import keras
from keras import ops

_FEWEST = 8
_FEWEST_OF_STRIDED_POINTWISE = 16


def pad_channels(inputs, kernel, most: int | None = None):
    """Appends zero channels where TensorFlow's convolution needs 8 of them.

    Args:
        inputs: Tensor of shape (batch, height, width, channels).
        kernel: Tensor of shape (height, width, channels, filters).
        most: Upper bound on the number of channels, where it is unknown.

    Returns:
        The inputs and the kernel, unchanged or with zeros appended.
    """
    if keras.backend.backend() != "tensorflow":
        return inputs, kernel
    channels = inputs.shape[-1]
    if channels is None and most is not None and most <= 64:
        missing = ops.maximum(_FEWEST - ops.shape(inputs)[-1], 0)
    elif channels in range(4, _FEWEST):
        missing = _FEWEST - channels
    else:
        return inputs, kernel
    return _append_zeros(inputs, missing, axis=3), _append_zeros(kernel, missing, 2)


def _append_zeros(x, count, axis):
    # Not `pad`, which oneDNN's graph pass mistakes for spatial padding.
    shape = ops.shape(x)
    zeros = ops.zeros((*shape[:axis], count, *shape[axis + 1 :]), x.dtype)
    return ops.concatenate([x, zeros], axis=axis)


def without_stride(inputs, kernel_size, strides):
    """Returns inputs and strides with which TensorFlow's convolution is safe.

    A 1x1 convolution with a stride over few channels becomes a selection of
    pixels and a convolution of stride 1.

    Args:
        inputs: Tensor of shape (batch, height, width, channels).
        kernel_size: Pair of integers.
        strides: Pair of integers.
    """
    channels = inputs.shape[-1]
    if (
        keras.backend.backend() != "tensorflow"
        or tuple(kernel_size) != (1, 1)
        or set(strides) == {1}
        or (channels is not None and channels >= _FEWEST_OF_STRIDED_POINTWISE)
    ):
        return inputs, strides
    # Of a single pixel; slicing takes twice as long, and its gradient, too.
    return ops.average_pool(inputs, 1, strides, padding="valid"), (1, 1)
