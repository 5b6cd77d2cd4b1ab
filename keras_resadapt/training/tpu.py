"""Training on a TPU with TensorFlow."""

import functools
from typing import Any


@functools.lru_cache
def tpu_strategy(address: str = "local") -> Any:
    """Connects to a TPU and returns its strategy.

    This function has never run: no TPU was available, and there is no
    `tensorflow-tpu` package for TensorFlow 2.21. On CPUs, the tests compile whole
    training steps of every family with XLA, which a TPU needs. On the JAX backend,
    `strategy_scope("mirrored")` uses TPUs through `DataParallel`.

    Batches must have a static size, so drop the last partial batch of an epoch.

    Args:
        address: Name or address of the TPU; `"local"` on a TPU virtual machine.

    Returns:
        A `tf.distribute.TPUStrategy`, the same one for every call of a process,
        because initializing a TPU again deletes all of its variables.

    Raises:
        RuntimeError: There is no such TPU.
    """
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise RuntimeError(
            "`strategy='tpu'` needs a TPU, and a TensorFlow that was built for it. "
            f"Received: address={address!r} ({error})"
        ) from error
    return tf.distribute.TPUStrategy(resolver)
