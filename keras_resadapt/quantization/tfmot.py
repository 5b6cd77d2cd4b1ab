"""TensorFlow Model Optimization's quantizers, inside Keras 3 layers."""

import importlib.util

import keras

from keras_resadapt.backend import require_tensorflow


def tfmot_quantizers():
    """The module `tensorflow_model_optimization.quantization.keras.quantizers`.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ImportError: TensorFlow Model Optimization is not installed.
    """
    require_tensorflow("Int8")
    import tensorflow as tf

    # Importing TFMOT asks for Keras 2; TensorFlow listens to that only until
    # somebody has touched `tf.keras`.
    tf.keras.layers  # noqa: B018
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        raise ImportError(
            "`Int8` needs tensorflow-model-optimization: install "
            "`keras_resadapt[quantization]`."
        )
    from tensorflow_model_optimization.python.core.quantization.keras import (
        quantizers,
    )

    return quantizers


class KerasAdapter:
    """What a TFMOT quantizer takes for the Keras 2 layer that owns its range.

    Args:
        layer: The Keras 3 layer that owns it.
    """

    def __init__(self, layer: keras.layers.Layer):
        self._layer = layer

    def add_weight(self, name, shape=None, initializer=None, trainable=False):
        """A variable of the layer: of no axis, or of one of `shape` entries."""
        return self._layer.add_weight(
            shape=() if shape is None else (shape,),
            name=name,
            initializer=keras.initializers.Constant(initializer.value),
            trainable=trainable,
            dtype="float32",
            autocast=False,
            aggregation="mean",
        )


def tensors(variables: dict) -> dict:
    """What a TFMOT quantizer takes for its range, `tf.Variable`s."""
    return {name: variable.value for name, variable in variables.items()}
