"""TensorFlow Model Optimization's quantizers, inside Keras 3 layers."""

import importlib.util
import os

import keras

from keras_resadapt.backend import require_tensorflow

_LEGACY = "TF_USE_LEGACY_KERAS"


def tfmot_quantizers():
    """The module `tensorflow_model_optimization.quantization.keras.quantizers`.

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
    # Importing TFMOT asks for Keras 2, of this process and its children.
    # TensorFlow listens to that only until somebody has touched `tf.keras`.
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
