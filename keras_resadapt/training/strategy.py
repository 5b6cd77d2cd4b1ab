"""On which devices to train."""

import contextlib

STRATEGIES = ("none", "mirrored")


def strategy_scope(name: str = "none") -> contextlib.AbstractContextManager:
    """The scope in which to build, compile and fit a model.

    Args:
        name: `"none"` is one device; `"mirrored"` is TensorFlow's
            `MirroredStrategy` over all GPUs of this machine, or over its
            logical CPUs when there is none. BatchNormalization is
            synchronized, so that the number of replicas changes nothing.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of {STRATEGIES}. Received: {name!r}"
        )
    if name == "none":
        return contextlib.nullcontext()
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or (
        tf.config.list_logical_devices("CPU")
    )
    return tf.distribute.MirroredStrategy([d.name for d in devices]).scope()
