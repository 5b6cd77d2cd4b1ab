"""TensorFlow Model Optimization's quantizers, inside Keras 3 layers."""

import importlib.util
import os

import keras

from keras_resadapt.backend import require_tensorflow

_LEGACY = "TF_USE_LEGACY_KERAS"


def tfmot_quantizers():
    """Returns TensorFlow Model Optimization's module of quantizers.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ImportError: TensorFlow Model Optimization is not installed.
    """
    require_tensorflow("Int8")
    import tensorflow as tf

    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        raise ImportError(
            "`Int8` needs tensorflow-model-optimization: install "
            "`keras_resadapt[quantization]`."
        )
    # Importing TFMOT sets an environment variable that switches `tf.keras` to
    # Keras 2, also in child processes. The switch has no effect once `tf.keras`
    # was used.
    tf.keras.layers  # noqa: B018
    before = os.environ.get(_LEGACY)
    try:
        from tensorflow_model_optimization.python.core.quantization.keras import (  # noqa: E501
            quantizers,
        )
    finally:
        os.environ.pop(_LEGACY, None)
        if before is not None:
            os.environ[_LEGACY] = before
    return quantizers


class KerasAdapter:
    """The Keras 2 layer that a TFMOT quantizer adds its range to.

    Args:
        layer: The Keras 3 layer that owns the range.
    """

    def __init__(self, layer: keras.layers.Layer):
        self._layer = layer

    def add_weight(self, name, shape=None, initializer=None, trainable=False):
        """Adds a scalar, or a vector of `shape` entries, to the layer."""
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
    """Returns the range of a TFMOT quantizer as `tf.Variable`s."""
    return {name: variable.value for name, variable in variables.items()}
