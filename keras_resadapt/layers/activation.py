"""Activations, which keep NaN in training."""

from collections.abc import Callable

import keras


@keras.saving.register_keras_serializable("keras_resadapt")
class Activation(keras.layers.Layer):
    """The activation before a convolution or after a sum.

    In training it passes NaN on, so that the loss shows it.

    Args:
        function: `"relu"`, `"relu6"`, another name of `keras.activations` or a
            function; None to change nothing.

    Call arguments:
        inputs: Tensor of any shape.
    """

    def __init__(self, function: str | Callable | None = None, **kwargs):
        super().__init__(**kwargs)
        self.function = keras.activations.get(function)
        self.built = True

    def call(self, inputs, training=None):
        if (
            training
            and self.function is keras.activations.relu
            and keras.backend.backend() == "tensorflow"
        ):
            return relu_of_nan(inputs)
        return self.function(inputs)

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "function": keras.activations.serialize(self.function),
        }


def relu_of_nan(inputs):
    """Returns `relu(inputs)`, and NaN where the inputs are NaN.

    TensorFlow merges a ReLU into the BatchNormalization or the bias before it,
    and oneDNN's merged kernel returns 0 for NaN. A maximum is not merged.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def relu(x):
        outputs = tf.maximum(x, tf.zeros((), x.dtype))

        def gradient(upstream):
            # That of a maximum compares and selects, which takes longer.
            return tf.raw_ops.ReluGrad(gradients=upstream, features=outputs)

        return outputs, gradient

    return relu(inputs)
