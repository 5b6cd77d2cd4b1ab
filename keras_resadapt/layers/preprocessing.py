"""What a network does to its input first."""

import keras
from keras import ops

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable("keras_resadapt")
class Preprocessing(keras.layers.Layer):
    """Scales RGB images to what the backbone was trained on.

    It is part of the model, so that a saved or exported one takes the same
    pictures as the one that was trained.

    Args:
        mode: `"imagenet"` takes values in [0, 255], scales them to [0, 1] and
            normalizes them by ImageNet's mean and deviation a channel;
            `"unit"` scales [0, 255] to [0, 1]; `None` changes nothing.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, 3), uint8 or float.
    """

    def __init__(self, mode: str | None = "imagenet", **kwargs):
        # Pixel values do not fit a 16-bit float: cast after the scaling.
        super().__init__(autocast=False, **kwargs)
        if mode not in ("imagenet", "unit", None):
            raise ValueError(
                "`preprocessing` must be 'imagenet', 'unit' or None. "
                f"Received: preprocessing={mode!r}"
            )
        self.mode = mode

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        if self.mode == "unit":
            x = x / 255.0
        elif self.mode == "imagenet":  # (x / 255 - mean) / deviation
            scale = [1 / (255 * d) for d in _DEVIATION]
            offset = [m / d for m, d in zip(_MEAN, _DEVIATION)]
            x = x * ops.array(scale, "float32") - ops.array(offset, "float32")
        return ops.cast(x, self.compute_dtype)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config.pop("autocast", None)
        return {**config, "mode": self.mode}
