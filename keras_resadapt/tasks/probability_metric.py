"""Metrics that take probabilities, for networks that return logits."""

from typing import Any

import keras
from keras import ops

from keras_resadapt.tasks.wrapped_metric import WrappedMetric

# They compare probabilities with thresholds, and take one-hot labels.
_OF_PROBABILITIES = (
    keras.metrics.Precision,
    keras.metrics.Recall,
    keras.metrics.AUC,
    keras.metrics.FBetaScore,  # and F1Score
    keras.metrics.PrecisionAtRecall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
    keras.metrics.TruePositives,
    keras.metrics.TrueNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.FalseNegatives,
)


def of_logits(metric: Any, num_classes: int) -> Any:
    """Returns a metric that takes logits.

    Args:
        metric: What `compile` accepts as a metric: a name, a function, an instance,
            or a class of `keras.metrics.Metric`, of which each operating point gets
            an instance of its own.
        num_classes: Number of classes.
    """
    if isinstance(metric, type) and issubclass(metric, keras.metrics.Metric):
        metric = metric()
    if isinstance(metric, str) and hasattr(keras.metrics, metric):
        named = getattr(keras.metrics, metric)
        if isinstance(named, type) and issubclass(named, _OF_PROBABILITIES):
            metric = named()
    if isinstance(metric, _OF_PROBABILITIES):
        return ProbabilityMetric(metric, num_classes)
    return metric


@keras.saving.register_keras_serializable("keras_resadapt")
class ProbabilityMetric(WrappedMetric):
    """A metric of one-hot labels and probabilities, fed with labels and logits.

    Args:
        metric: The metric of probabilities, such as `keras.metrics.Precision`.
        num_classes: Number of classes.
    """

    def update_state(self, y_true, y_pred, sample_weight=None):
        if len(y_true.shape) < 2 or y_true.shape[-1] != self.num_classes:
            labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
            y_true = ops.one_hot(labels, self.num_classes)
        self.metric.update_state(y_true, ops.softmax(y_pred), sample_weight)
