"""Zero channels that keep TensorFlow's convolutions within their buffers."""

import keras
from keras import ops

# oneDNN's gradient of a convolution over 4 to 7 input channels writes past its
# buffers on processors with AVX2 (TensorFlow 2.21).
_FEWEST = 8


def pad_channels(inputs, kernel, most: int | None = None):
    """Appends zero channels where TensorFlow's convolution needs 8 of them.

    Args:
        inputs: Tensor of shape (batch, height, width, channels).
        kernel: Tensor of shape (height, width, channels, filters).
        most: The largest number of channels that inputs of an unknown number
            can have; by default their number is known.

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
