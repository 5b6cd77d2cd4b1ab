"""The devices on which a model is trained."""

import contextlib
import functools

import keras

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.training.data_parallel import DataParallel
from keras_resadapt.training.tpu import tpu_strategy
from keras_resadapt.training.workers import join_cluster

STRATEGIES = ("none", "mirrored", "multi_worker", "tpu")

# Longer than the workers differ in compiling, validating and saving
WORKER_TIMEOUT = 1800.0


def strategy_scope(
    name: str = "none", timeout_seconds: float = WORKER_TIMEOUT
) -> contextlib.AbstractContextManager:
    """Returns the scope in which to build, compile and fit a model.

    BatchNormalization is synchronized, so that the results do not depend on the
    number of replicas.

    Args:
        name: `"none"` uses one device. `"mirrored"` uses TensorFlow's
            `MirroredStrategy` over all GPUs of this machine, or over its
            logical CPUs if it has no GPU; on JAX, a `DataParallel` over its GPUs,
            TPUs or CPUs. `"tpu"` uses TensorFlow's `TPUStrategy`, which has never
            run; see `tpu_strategy`. `"multi_worker"` uses TensorFlow's
            `MultiWorkerMirroredStrategy` over the processes that `TF_CONFIG`, or
            else a SLURM step, describes; each uses all GPUs that it sees. It must be
            called before TensorFlow runs an operation. Callbacks run in every worker:
            add those that write files where `is_chief()` is True.
        timeout_seconds: For `"multi_worker"`: how long a worker waits for another
            one before it ends with an error, at the start and in the functions that
            all workers call together. It must exceed the time in which one worker
            compiles, validates or saves while the others wait. In the steps of
            `fit`, `Watchdog` ends workers that wait.

    Raises:
        ValueError: If `name` is not one of `STRATEGIES`, or if there is no valid
            description of the cluster, or the descriptions of the workers differ.
        RuntimeError: If TensorFlow has run an operation before the workers connect,
            if there is no TPU, or if the backend does not have the strategy.
        OSError: If the port of a worker is in use.
        TimeoutError: If a worker does not come in time.
    """
    if name not in STRATEGIES:
        raise ValueError(f"`name` must be one of {STRATEGIES}. Received: name={name!r}")
    if name == "none":
        return contextlib.nullcontext()
    if name == "mirrored" and keras.backend.backend() == "jax":
        return DataParallel().scope()
    require_tensorflow(f"strategy_scope({name!r})")
    if name == "mirrored":
        return _mirrored_scope()
    if name == "tpu":
        return tpu_strategy().scope()
    return join_cluster(timeout_seconds).scope()


def _mirrored_scope() -> contextlib.AbstractContextManager:
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
