"""Compilation of functions of tensors, for TensorFlow and JAX."""

from collections.abc import Callable

import keras


def compile_function(function: Callable, *shapes: tuple[int | None, ...]) -> Callable:
    """Compiles a function of float32 tensors.

    Args:
        function: The function to compile. It is traced once for each set of
            input shapes, or only once if `shapes` is given and the backend is
            TensorFlow.
        shapes: The shape of each argument, with None for sizes that change
            from call to call.

    Returns:
        The compiled function, with the same arguments and results.
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


def compile_any_size(function: Callable) -> Callable:
    """Compiles a function of nested tensors for all sizes, on TensorFlow.

    Args:
        function: The function. It is traced once: all sizes but those of the last
            axis are unknown.
    """
    import tensorflow as tf

    compiled = tf.function(function, autograph=False)
    traced = []

    def run(*inputs):
        inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        if not traced:
            specs = keras.tree.map_structure(
                lambda x: tf.TensorSpec([None] * (x.ndim - 1) + [x.shape[-1]], x.dtype),
                inputs,
            )
            traced.append(compiled.get_concrete_function(*specs))
        return traced[0](*inputs)

    return run
