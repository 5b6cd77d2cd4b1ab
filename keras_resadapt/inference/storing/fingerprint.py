"""Fingerprints that identify a trained model."""

import hashlib
import json

import keras
import numpy as np

_INESSENTIAL = ("name", "dtype", "trainable", "compile_config", "build_config")


def model_fingerprint(model: keras.Model) -> str:
    """Returns a short hash of a model's class, configuration and weights.

    The fingerprint is the same after saving and loading and in every process.
    It changes with any further training. Names, dtypes and the configuration
    of training have no influence.
    """
    digest = hashlib.sha256()
    digest.update(type(model).__name__.encode())
    config = _essential(model.get_config())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]


def check_fingerprint(model: keras.Model, fingerprint: str, problem: str) -> None:
    """Raises a `ValueError` unless the model has a fingerprint.

    Args:
        model: The model.
        fingerprint: The expected fingerprint.
        problem: The beginning of the error message.
    """
    own = model_fingerprint(model)
    if own != fingerprint:
        raise ValueError(
            f"{problem} Its fingerprint is {fingerprint!r}, but the fingerprint "
            f"of {model.name!r} is {own!r}."
        )


def _essential(config):
    """Returns the configuration without the inessential keys, at every depth."""
    if isinstance(config, dict):
        return {
            key: _essential(value)
            for key, value in config.items()
            if key not in _INESSENTIAL
        }
    if isinstance(config, (list, tuple)):
        return [_essential(value) for value in config]
    return config
