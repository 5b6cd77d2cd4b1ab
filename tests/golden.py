"""The rule by which the reference computations filled weights and inputs."""

import zlib

import numpy as np


def array(key, shape):
    """The array that the reference network had under this checkpoint key."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        value = np.zeros(shape)
    elif key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean") or key.endswith("bias"):
        value = rng.normal(0, 0.1, shape)
    elif len(shape) == 1:
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = rng.normal(0, 1, shape) * np.sqrt(2 / np.prod(shape[1:]))
    return value.astype("float32")


def images(resolution, batch=2):
    """The reference input, (batch, resolution, resolution, 3)."""
    shape = (batch, 3, resolution, resolution)
    value = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    return value.transpose(0, 2, 3, 1)


def labels(num_classes, batch):
    return np.random.default_rng(1).integers(0, num_classes, batch)
