"""Checkpoints whose BatchNormalization has another epsilon than the model's."""

from collections.abc import Mapping

import numpy as np

from keras_resadapt.number_checks import check_number


def with_epsilon_of(
    model, state_dict: Mapping[str, np.ndarray], bn_epsilon: float
) -> dict[str, np.ndarray]:
    """Returns a checkpoint with scales for the epsilon of a model.

    Every scale is multiplied so that normalizing by the running statistics computes
    the same: `scale / sqrt(variance + epsilon)` does not change.

    Args:
        model: A network whose normalizations have one epsilon.
        state_dict: The arrays of the checkpoint by key.
        bn_epsilon: The epsilon with which the checkpoint was trained, at least 0.

    Raises:
        ValueError: `bn_epsilon` is negative, or a variance is 0 without an epsilon.
    """
    bn_epsilon = check_number(bn_epsilon, "bn_epsilon", 0)
    (own,) = {
        layer.epsilon
        for layer in model._flatten_layers()
        if hasattr(layer, "normalize_by_batch")
    }
    changed = dict(state_dict)
    for key, variance in state_dict.items():
        name, found, _ = key.partition(".running_var")
        scale = state_dict.get(f"{name}.weight")
        if not found or scale is None or scale.shape != variance.shape:
            continue
        variance = variance.astype("float64")
        if not np.all(variance + bn_epsilon > 0):
            raise ValueError(
                "`bn_epsilon` must be positive for a checkpoint with a variance of 0. "
                f"Received: bn_epsilon={bn_epsilon} and 0 in {key!r}"
            )
        factor = np.sqrt((variance + own) / (variance + bn_epsilon))
        changed[f"{name}.weight"] = (scale * factor).astype("float32")
    return changed
