"""What only TensorFlow can do."""

import keras


def require_tensorflow(name: str) -> None:
    """Raises a `RuntimeError` on another backend than TensorFlow.

    Args:
        name: The function or class that needs it.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"`{name}` needs the TensorFlow backend: set "
            "KERAS_BACKEND=tensorflow and load the model again. The backend "
            f"is {keras.backend.backend()!r}."
        )


def on_tensorflow_cpu() -> bool:
    """Returns whether the backend is TensorFlow without a GPU or TPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not (
        tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU")
    )


def in_graph() -> bool:
    """Returns whether TensorFlow is tracing a function."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()
