"""Temperature scaling of each exit."""

import numpy as np
from scipy import optimize

from keras_resadapt.inference.storing.confidence import softmax
from keras_resadapt.inference.storing.point_logits import PointLogits

_RANGE = np.log([0.02, 50])


def fit_temperatures(held_out: PointLogits) -> tuple[float, ...]:
    """Returns the temperature of each exit that calibrates its confidence.

    The temperature T in [0.02, 50] minimizes the cross-entropy of
    `softmax(logits / T)` on held-out data (Guo et al., On Calibration of
    Modern Neural Networks, ICML 2017, section 4.2).

    Args:
        held_out: Logits of images that the model was not trained on.

    Raises:
        ValueError: If there are no images.
    """
    if not len(held_out.labels):
        raise ValueError("`held_out` must have at least one image. Received: none")
    images = np.arange(len(held_out.labels))

    def fit(logits):
        def cross_entropy(log_temperature):
            probabilities = softmax(logits / np.exp(log_temperature))
            right = probabilities[images, held_out.labels]
            return -np.log(np.maximum(right, 1e-30)).mean()

        found = optimize.minimize_scalar(cross_entropy, bounds=_RANGE, method="bounded")
        return float(np.exp(found.x))

    return tuple(fit(logits.astype("float64")) for logits in held_out.logits)
