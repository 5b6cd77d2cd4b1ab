"""On which devices to train."""

import contextlib
import functools

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
        raise ValueError(f"`strategy` must be one of {STRATEGIES}. Received: {name!r}")
    if name == "none":
        return contextlib.nullcontext()
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or (
        tf.config.list_logical_devices("CPU")
    )
    return _mirrored_strategy(tuple(d.name for d in devices)).scope()


@functools.lru_cache
def _mirrored_strategy(devices: tuple[str, ...]):
    """One a process: a second one would use the numbers of the first one's
    collective operations again, for tensors of other shapes."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)
