"""Compiles a function of tensors, whatever the backend."""

from collections.abc import Callable

import keras


def compile_function(function: Callable, *shapes: tuple) -> Callable:
    """One graph for each shape of its arguments, or one for all.

    Args:
        function: Of float32 tensors.
        shapes: A shape an argument, with None for sizes that change from call
            to call. Without them, TensorFlow compiles anew for each, as JAX
            does in any case.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    compiled = tf.function(function, autograph=False)
    if not shapes:
        return compiled
    return compiled.get_concrete_function(
        *(tf.TensorSpec(shape, tf.float32) for shape in shapes)
    )
