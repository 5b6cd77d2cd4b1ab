"""Probabilities and confidences from logits, in NumPy."""

import numpy as np

# Only rounding makes a probability exactly 1. Limiting confidences to a value
# just below 1 guarantees that no image exits early at a threshold of 1.
MAX_CONFIDENCE = 1 - 1e-5


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """Returns the confidence that is compared with a threshold.

    It is the largest probability, limited to `MAX_CONFIDENCE`. The
    implementation inside TensorFlow graphs is in `running/adaptive.py`.

    Args:
        probabilities: float32 of shape (..., classes).

    Returns:
        float32 of shape (...).
    """
    return np.minimum(probabilities.max(axis=-1), np.float32(MAX_CONFIDENCE))
