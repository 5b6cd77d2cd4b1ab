"""Max pooling with the padding of the published networks."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_resadapt")
class PaddedMaxPooling2D(keras.layers.MaxPooling2D):
    """3x3 max pooling of stride 2, padded with one pixel of zeros on every side.

    The inputs must not be negative, as the outputs of a ReLU are: only then do
    zeros pool like minus infinity.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
    """

    def __init__(self, **kwargs):
        super().__init__(3, 2, **kwargs)

    def call(self, inputs):
        return super().call(ops.pad(inputs, [(0, 0), (1, 1), (1, 1), (0, 0)]))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return super().compute_output_shape(
            (batch, _add(height, 2), _add(width, 2), channels)
        )

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=inputs.dtype
        )

    def get_config(self):
        config = super().get_config()
        return {key: config[key] for key in ("name", "trainable", "dtype")}


def _add(size, count):
    return None if size is None else size + count
