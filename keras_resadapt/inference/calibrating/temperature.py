"""Temperatures that make each exit's confidence mean what it says."""

import numpy as np

from keras_resadapt.inference.storing.point_logits import PointLogits, softmax

_RANGE = np.log([0.02, 50])


def fit_temperatures(held_out: PointLogits) -> tuple[float, ...]:
    """The temperature T of each exit that minimizes the cross-entropy of
    `softmax(logits / T)` on held-out data, in [0.02, 50].

    Guo et al., On Calibration of Modern Neural Networks (ICML 2017),
    section 4.2.
    """
    from scipy import optimize

    images = np.arange(len(held_out.labels))

    def fit(logits):
        def cross_entropy(log_temperature):
            probabilities = softmax(logits / np.exp(log_temperature))
            right = probabilities[images, held_out.labels]
            return -np.log(np.maximum(right, 1e-30)).mean()

        found = optimize.minimize_scalar(cross_entropy, bounds=_RANGE, method="bounded")
        return float(np.exp(found.x))

    return tuple(fit(logits.astype("float64")) for logits in held_out.logits)
