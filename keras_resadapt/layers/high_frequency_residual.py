"""MSNet's sum of features at two resolutions."""

import keras
from keras import ops

from keras_resadapt.layers.resize import resize_bilinear
from keras_resadapt.number_checks import check_integer

UPSAMPLINGS = ("nearest", "bilinear")


@keras.saving.register_keras_serializable("keras_resadapt")
class HighFrequencyResidual(keras.layers.Layer):
    """Adds the upsampled features of a network at a lower resolution.

    Let x_L and x_H be the inputs of a stage L of the low-resolution network and
    of the same stage H of the high-resolution network, and u the upsampling, a
    low-pass filter. Then (MSNet, equations 1 and 2)

        y_L = L(x_L)
        y_H = H(x_H) + u(y_L)

    so that H learns the high frequencies. This layer computes the sum in the
    second equation. It has no weights and no multiply-adds.

    u makes y_L `scale` times as high and wide. If a stage rounded an odd size,
    the result can differ from the size of H(x_H). Then rows and columns are
    cropped, or zeros are added, at the bottom and on the right (MSNet, section
    4.2.3): strided layers keep the top left corners aligned.

    Args:
        scale: Ratio of the two resolutions, a positive integer.
        upsampling: `"nearest"` or `"bilinear"`.

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
        if upsampling not in UPSAMPLINGS:
            raise ValueError(
                f"`upsampling` must be one of {UPSAMPLINGS}. "
                f"Received: upsampling={upsampling!r}"
            )
        self.scale = check_integer(scale, "scale")
        self.upsampling = upsampling

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, low):
        return inputs + _fit(self._upsample(low), inputs.shape[1:3])

    def _upsample(self, low):
        if self.upsampling == "bilinear":
            _, height, width, _ = low.shape
            return resize_bilinear(low, (self.scale * height, self.scale * width))
        # Unlike the backends' own resizing, every backend compiles this.
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
    """Crops features or adds zeros, at the bottom and on the right."""
    height, width = size
    features = features[:, :height, :width]
    missing = [(0, new - old) for new, old in zip(size, features.shape[1:3])]
    if any(after for _, after in missing):
        features = ops.pad(features, [(0, 0), *missing, (0, 0)])
    return features
