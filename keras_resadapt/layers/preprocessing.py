"""Preprocessing of images inside the network."""

import keras
from keras import ops

# Mean and standard deviation per channel, of values in [0, 1]
_STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
# The mean color of ImageNet in [0, 255], which preprocessing turns into zeros
MEAN_COLOR = (123.675, 116.28, 103.53)
PREPROCESSING = (*_STATISTICS, "unit", None)


@keras.saving.register_keras_serializable("keras_resadapt")
class Preprocessing(keras.layers.Layer):
    """Scales RGB images to the range that the backbone was trained on.

    It is part of the model, so that a saved or exported model takes the same
    images as the trained one.

    Args:
        mode: `"imagenet"`, `"cifar10"` and `"cifar100"` take values in
            [0, 255], scale them to [0, 1] and normalize each channel by the
            mean and standard deviation of that data set. `"unit"` scales
            [0, 255] to [0, 1]. `None` changes nothing.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, 3), uint8 or float.

    Raises:
        ValueError: For an unknown mode, and for images that do not have 3
            channels.
    """

    def __init__(self, mode: str | None = "imagenet", **kwargs):
        # Pixel values do not fit a 16-bit float: cast after the scaling.
        super().__init__(autocast=False, **kwargs)
        if mode not in PREPROCESSING:
            raise ValueError(
                f"`preprocessing` must be one of {PREPROCESSING}. "
                f"Received: preprocessing={mode!r}"
            )
        self.mode = mode

    def call(self, inputs):
        _check_channels(inputs)
        x = ops.cast(inputs, "float32")
        if self.mode == "unit":
            x = x / 255.0
        elif self.mode is not None:  # (x / 255 - mean) / deviation
            mean, deviation = _STATISTICS[self.mode]
            scale = [1 / (255 * d) for d in deviation]
            offset = [m / d for m, d in zip(mean, deviation)]
            x = x * ops.array(scale, "float32") - ops.array(offset, "float32")
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (None, *input_shape[1:])

    def compute_output_spec(self, inputs):
        _check_channels(inputs)
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config.pop("autocast", None)
        return {**config, "mode": self.mode}


def _check_channels(images) -> None:
    if len(images.shape) != 4 or images.shape[-1] not in (3, None):
        raise ValueError(
            "`images` must have 3 channels (RGB) and the shape (batch, height, "
            "width, 3). Convert grayscale images with `tf.image."
            "grayscale_to_rgb`, and drop the alpha channel of RGBA images. "
            f"Received: images of shape {tuple(images.shape)}"
        )
