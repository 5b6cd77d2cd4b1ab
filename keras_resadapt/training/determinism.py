"""Runs that end with the same weights every time."""

from keras_resadapt.backend import require_tensorflow


def enable_determinism() -> None:
    """Makes TensorFlow compute the same values in every run of a program.

    It enables deterministic operations, and one thread between operations: the sum
    of three or more gradients of one tensor depends on the order in which they are
    ready. Random numbers need a seed too: `keras.utils.set_random_seed`.

    Raises:
        RuntimeError: On another backend than TensorFlow, or after TensorFlow has run
            its first operation, when the number of threads can no longer change.
    """
    require_tensorflow("enable_determinism")
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    if tf.config.threading.get_inter_op_parallelism_threads() == 1:
        return
    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise RuntimeError(
            "`enable_determinism` must be called before TensorFlow runs an operation."
        ) from error
