"""Tells one trained model from another."""

import hashlib
import json

import keras
import numpy as np

_INESSENTIAL = ("name", "dtype", "trainable", "compile_config", "build_config")


def model_fingerprint(model: keras.Model) -> str:
    """A short hash of a model's class, configuration and weights.

    The same after saving and loading, and in every process; another one after
    any further training. Names, dtypes and what belongs to training alone do
    not count.
    """
    digest = hashlib.sha256()
    digest.update(type(model).__name__.encode())
    config = _essential(model.get_config())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]


def check_fingerprint(model: keras.Model, fingerprint: str, problem: str) -> None:
    """Raises a `ValueError` that begins with `problem` unless the model has
    this fingerprint."""
    own = model_fingerprint(model)
    if own != fingerprint:
        raise ValueError(
            f"{problem} The fingerprint is {fingerprint!r}, that of "
            f"{model.name!r} is {own!r}."
        )


def _essential(config):
    """The configuration, at every depth without what does not count."""
    if isinstance(config, dict):
        return {
            key: _essential(value)
            for key, value in config.items()
            if key not in _INESSENTIAL
        }
    if isinstance(config, (list, tuple)):
        return [_essential(value) for value in config]
    return config
