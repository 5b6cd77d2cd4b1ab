"""The devices on which a model is trained."""

import contextlib
import functools

STRATEGIES = ("none", "mirrored")


def strategy_scope(name: str = "none") -> contextlib.AbstractContextManager:
    """Returns the scope in which to build, compile and fit a model.

    Args:
        name: `"none"` uses one device. `"mirrored"` uses TensorFlow's
            `MirroredStrategy` over all GPUs of this machine, or over its
            logical CPUs if it has no GPU. BatchNormalization is synchronized,
            so that the results do not depend on the number of replicas.

    Raises:
        ValueError: If `name` is not one of `STRATEGIES`.
    """
    if name not in STRATEGIES:
        raise ValueError(f"`name` must be one of {STRATEGIES}. Received: name={name!r}")
    if name == "none":
        return contextlib.nullcontext()
    import tensorflow as tf  # optional: JAX trains without it

    devices = tf.config.list_logical_devices("GPU") or (
        tf.config.list_logical_devices("CPU")
    )
    return _mirrored_strategy(tuple(d.name for d in devices)).scope()


@functools.lru_cache
def _mirrored_strategy(devices: tuple[str, ...]):
    """Returns the one strategy of this process.

    A second strategy would use the numbers of the first one's collective
    operations again, for tensors of other shapes.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)
