"""MSNet's sum of a network's features and a coarser network's."""

import keras
from keras import ops

from keras_resadapt.layers.resize import resize_bilinear

UPSAMPLINGS = ("nearest", "bilinear")


@keras.saving.register_keras_serializable("keras_resadapt")
class HighFrequencyResidual(keras.layers.Layer):
    """Adds the upsampled features of a network at a lower resolution.

    With x_L and x_H the inputs of a stage of the low- and the high-resolution
    network, L and H the two stages, and u the upsampling, a low-pass filter
    (MSNet, equations 1 and 2):

        y_L = L(x_L)
        y_H = H(x_H) + u(y_L)

    so that H is left to learn the high frequencies. This layer is the second
    equation's sum. It has no weights and no multiply-adds.

    u makes y_L `scale` times as high and wide. Where that is not the size of
    H(x_H), because a stage rounded an odd size up or down, rows and columns
    are cropped or zeros are added (MSNet, section 4.2.3), at the bottom and
    on the right: strided layers keep the top left corners aligned.

    Args:
        scale: Pixels of x_H for each of x_L, along an axis; an integer.
        upsampling: `"nearest"`, or `"bilinear"`, for square features.

    Call arguments:
        inputs: H(x_H), tensor of shape (batch, height, width, channels).
        low: y_L, tensor of shape (batch, low_height, low_width, channels).

    Returns:
        y_H, in the shape of `inputs`.

    Reference:
        High Frequency Residual Learning for Multi-Scale Image Classification
        (https://arxiv.org/abs/1905.02649).
    """

    def __init__(self, scale: int = 2, upsampling: str = "nearest", **kwargs):
        super().__init__(**kwargs)
        if not hasattr(scale, "__index__") or scale < 1:
            raise ValueError(
                f"`scale` must be a positive integer. Received: scale={scale!r}"
            )
        if upsampling not in UPSAMPLINGS:
            raise ValueError(
                f"`upsampling` must be one of {UPSAMPLINGS}. "
                f"Received: upsampling={upsampling!r}"
            )
        self.scale = int(scale)
        self.upsampling = upsampling

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, low):
        return inputs + _fit(self._upsample(low), inputs.shape[1:3])

    def _upsample(self, low):
        if self.upsampling == "bilinear":
            return resize_bilinear(low, self.scale * low.shape[1])
        # Unlike the backends' own resizing, this compiles everywhere.
        for axis in (1, 2):
            low = ops.repeat(low, self.scale, axis=axis)
        return low

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "scale": self.scale,
            "upsampling": self.upsampling,
        }


def _fit(features, size):
    """Crops features, or adds zeros, at the bottom and on the right."""
    height, width = size
    features = features[:, :height, :width]
    missing = [(0, wanted - got) for wanted, got in zip(size, features.shape[1:3])]
    if any(after for _, after in missing):
        features = ops.pad(features, [(0, 0), *missing, (0, 0)])
    return features
