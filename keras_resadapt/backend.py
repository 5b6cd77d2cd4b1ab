"""Checks of the Keras backend."""

import keras


def require_tensorflow(name: str) -> None:
    """Raises a `RuntimeError` on any backend other than TensorFlow.

    Args:
        name: The function or class that needs it.
    """
    _require(name, "TensorFlow")


def require_tensorflow_or_jax(name: str) -> None:
    """Raises a `RuntimeError` on any backend other than TensorFlow and JAX.

    Args:
        name: The function or class that needs one of them.
    """
    _require(name, "TensorFlow", "JAX")


def _require(name: str, *backends: str) -> None:
    backend = keras.backend.backend()
    if backend not in [supported.lower() for supported in backends]:
        raise RuntimeError(
            f"`{name}` needs the {' or '.join(backends)} backend: set "
            "KERAS_BACKEND=tensorflow and load the model again. "
            f"Received: the backend {backend!r}"
        )


def on_tensorflow_cpu() -> bool:
    """Returns whether the backend is TensorFlow without a GPU or TPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not (
        tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU")
    )


def on_tpu() -> bool:
    """Returns whether TensorFlow has a TPU, which compiles every step with XLA."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("TPU"))


def in_graph() -> bool:
    """Returns whether TensorFlow is tracing a function."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()
