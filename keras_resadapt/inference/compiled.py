"""Compiles a function of tensors, whatever the backend."""

from collections.abc import Callable

import keras


def compile_function(function: Callable) -> Callable:
    """One graph for each shape of its arguments."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)
