"""Tells one trained model from another."""

import hashlib
import json

import keras
import numpy as np


def model_fingerprint(model: keras.Model) -> str:
    """A short hash of a model's class, configuration and weights.

    The same after saving and loading, and in every process; another one after
    any further training. The model's name does not count.
    """
    config = {
        key: value
        for key, value in model.get_config().items()
        if key not in ("name", "dtype")
    }
    digest = hashlib.sha256()
    digest.update(type(model).__name__.encode())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]
