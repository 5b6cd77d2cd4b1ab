"""The loss of a detector, and a metric of each of its terms."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_resadapt.boxes import count_samples, detection_losses
from keras_resadapt.layers.replicas import (
    in_replica,
    mean_over_replicas,
    num_replicas,
    sum_over_replicas,
)


@keras.saving.register_keras_serializable("keras_resadapt")
class DetectionLoss(keras.losses.Loss):
    """The sum of the losses of a Faster or Mask R-CNN; see `boxes.detection_losses`.

    Under `tf.distribute`, the loss of each replica is divided by the mean number of
    samples per replica.

    Args:
        rpn_beta, box_beta: As for `boxes.DetectionSettings`.

    Call arguments:
        y_true: Not used: `y_pred` holds the targets of its samples.
        y_pred: What `heads.MaskRCNN` returns for targets.
        sample_weight: Optional weights per image, (batch,).
    """

    def __init__(
        self,
        rpn_beta: float = 1 / 9,
        box_beta: float = 1 / 9,
        name: str = "detection_loss",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.rpn_beta = float(rpn_beta)
        self.box_beta = float(box_beta)

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Keras adds the losses of the replicas.
        return sum(self.terms(y_pred, sample_weight).values()) / num_replicas()

    def terms(
        self, y_pred: Mapping[str, Any], sample_weight: Any = None
    ) -> dict[str, Any]:
        """Returns the terms whose sum is the loss of one replica, by name."""
        counts = mean_over_replicas(count_samples(y_pred))
        return detection_losses(
            y_pred, self.rpn_beta, self.box_beta, sample_weight, counts
        )

    def get_config(self):
        return {
            **super().get_config(),
            "rpn_beta": self.rpn_beta,
            "box_beta": self.box_beta,
        }


@keras.saving.register_keras_serializable("keras_resadapt")
class MeanTerms(keras.metrics.Metric):
    """The mean over batches of each term of a loss.

    Args:
        terms: Names of the terms.

    Call arguments:
        y_true: Not used.
        y_pred: The terms of a batch, of shape (terms,).
    """

    def __init__(self, terms: Sequence[str], name: str = "terms", **kwargs):
        super().__init__(name=name, **kwargs)
        self.terms = tuple(terms)
        # The sums, and the number of batches
        self.sums = self.add_variable(
            (len(self.terms) + 1,), initializer="zeros", name="sums"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.sums.assign_add(ops.concatenate([y_pred, ops.ones((1,))]))

    def result(self):
        sums = ops.convert_to_tensor(self.sums)
        if in_replica():
            sums = sum_over_replicas(sums)
        means = sums[:-1] / ops.maximum(sums[-1], 1.0)
        return {f"{name}_loss": means[i] for i, name in enumerate(self.terms)}

    def get_config(self):
        return {**super().get_config(), "terms": self.terms}
