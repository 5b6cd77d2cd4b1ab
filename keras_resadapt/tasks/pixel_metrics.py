"""Metrics of semantic segmentation over whole data sets."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_resadapt.layers.replicas import in_replica, sum_over_replicas
from keras_resadapt.tasks.masks import labels_of, weights_of
from keras_resadapt.tasks.probability_metric import of_logits
from keras_resadapt.tasks.wrapped_metric import WrappedMetric

SCORES = ("mean_iou", "pixel_accuracy", "mean_accuracy")


@keras.saving.register_keras_serializable("keras_resadapt")
class ConfusionScores(keras.metrics.Metric):
    """Scores of one confusion matrix, which counts all pixels that are not void.

    - `mean_iou`: intersection over union, averaged over the classes that occur in the
      masks or in the predictions.
    - `pixel_accuracy`: share of correctly classified pixels.
    - `mean_accuracy`: share of correctly classified pixels of each class, averaged
      over the classes that occur in the masks.

    Without a labelled pixel, all scores are 0. The counts are exact integers of 64
    bits, and of 32 bits on JAX.

    Args:
        num_classes: Number of classes.
        ignore_class: The class index of void pixels, or None.
        scores: The scores to compute.

    Call arguments:
        y_true: Masks, as for `PixelLoss`.
        y_pred: Logits of shape (batch, height, width, classes).
        sample_weight: Optional weights, as for `PixelLoss`. Pixels of weight 0 are
            not counted; other weights make no difference.

    Attributes:
        confusion: The confusion matrix, of shape (classes, classes): rows are the
            classes of the masks, columns those of the predictions.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_class: int | None = 255,
        scores: Sequence[str] = SCORES,
        name: str = "scores",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.scores = tuple(scores)
        on_tensorflow = keras.backend.backend() == "tensorflow"
        self.confusion = self.add_variable(
            (num_classes, num_classes),
            initializer="zeros",
            dtype="int64" if on_tensorflow else "int32",
            name="confusion",
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        count = self.num_classes
        labels = labels_of(y_true, count)
        weights = weights_of(y_true, count, self.ignore_class, sample_weight)
        counted = ops.logical_and(labels >= 0, labels < count)
        counted = ops.logical_and(counted, weights > 0)
        index = labels * count + ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        pixels = ops.segment_sum(
            ops.reshape(ops.cast(counted, "int32"), (-1,)),
            ops.reshape(ops.where(counted, index, 0), (-1,)),
            num_segments=count * count,
        )
        pixels = ops.reshape(pixels, (count, count))
        self.confusion.assign_add(ops.cast(pixels, self.confusion.dtype))

    def result(self):
        confusion = ops.convert_to_tensor(self.confusion)
        if in_replica():
            confusion = sum_over_replicas(confusion)
        return confusion_scores(confusion, self.scores)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
            "scores": self.scores,
        }


@keras.saving.register_keras_serializable("keras_resadapt")
class MeanIoU(ConfusionScores):
    """The mean IoU alone, as one number; see `ConfusionScores`."""

    def __init__(
        self,
        num_classes: int,
        ignore_class: int | None = 255,
        name: str = "mean_iou",
        **kwargs,
    ):
        kwargs.pop("scores", None)  # of a configuration
        super().__init__(num_classes, ignore_class, ("mean_iou",), name, **kwargs)

    def result(self):
        return super().result()["mean_iou"]


def confusion_scores(confusion: Any, scores: Sequence[str] = SCORES) -> dict[str, Any]:
    """Returns scores of a confusion matrix by name; see `ConfusionScores`.

    Args:
        confusion: Tensor of shape (classes, classes): rows are the classes of the
            masks, columns those of the predictions.
        scores: The scores to compute.
    """
    # JAX has no 64 bits by default.
    on_tensorflow = keras.backend.backend() == "tensorflow"
    confusion = ops.cast(confusion, "float64" if on_tensorflow else "float32")
    correct = ops.diagonal(confusion)
    in_masks = ops.sum(confusion, axis=1)
    union = in_masks + ops.sum(confusion, axis=0) - correct
    computed = {
        "mean_iou": _mean_ratio(correct, union),
        "pixel_accuracy": _ratio(ops.sum(correct), ops.sum(in_masks)),
        "mean_accuracy": _mean_ratio(correct, in_masks),
    }
    return {name: ops.cast(computed[name], "float32") for name in scores}


def _ratio(part, whole):
    return part / ops.maximum(whole, 1)


def _mean_ratio(parts, wholes):
    """Returns the mean of the ratios with a positive whole."""
    occurs = ops.cast(wholes > 0, wholes.dtype)
    return _ratio(ops.sum(_ratio(parts, wholes)), ops.sum(occurs))


@keras.saving.register_keras_serializable("keras_resadapt")
class PixelMetric(WrappedMetric):
    """A metric of class indices and logits over the pixels that are not void.

    Args:
        metric: The metric, a `keras.metrics.Metric`. It gets labels of shape
            (pixels,), logits of shape (pixels, classes) and weights of shape
            (pixels,), which are 0 for void pixels.
        num_classes: Number of classes.
        ignore_class: The class index of void pixels, or None.
    """

    def __init__(
        self,
        metric: keras.metrics.Metric,
        num_classes: int,
        ignore_class: int | None = 255,
        **kwargs,
    ):
        super().__init__(metric, num_classes, **kwargs)
        self.ignore_class = ignore_class

    def update_state(self, y_true, y_pred, sample_weight=None):
        classes = (self.num_classes, self.ignore_class)
        weights = weights_of(y_true, *classes, sample_weight)
        labels = ops.where(weights > 0, labels_of(y_true, self.num_classes), 0)
        self.metric.update_state(
            ops.reshape(labels, (-1,)),
            ops.reshape(y_pred, (-1, self.num_classes)),
            ops.reshape(weights, (-1,)),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "ignore_class": self.ignore_class,
        }


def pixel_metrics(
    metrics: Sequence | None, num_classes: int, ignore_class: int | None
) -> list:
    """Returns the metrics of one operating point.

    Args:
        metrics: What `compile` accepts: names of `SCORES`, and metrics of class
            indices and logits; None for all of `SCORES`.
        num_classes: Number of classes.
        ignore_class: The class index of void pixels, or None.
    """
    metrics = SCORES if metrics is None else metrics
    scores = [name for name in SCORES if name in _names(metrics)]
    result = []
    if scores:
        result.append(ConfusionScores(num_classes, ignore_class, scores))
    for metric in metrics:
        if isinstance(metric, str) and metric in SCORES:
            continue
        if isinstance(metric, (ConfusionScores, PixelMetric)):
            result.append(metric)
            continue
        metric = of_logits(_as_metric(metric), num_classes)
        result.append(PixelMetric(metric, num_classes, ignore_class))
    return result


def _names(metrics) -> set[str]:
    return {metric for metric in metrics if isinstance(metric, str)}


def _as_metric(metric) -> keras.metrics.Metric:
    if metric in ("accuracy", "acc"):
        return keras.metrics.SparseCategoricalAccuracy(name=metric)
    found = keras.metrics.get(metric)
    if isinstance(found, type):
        return found()
    if isinstance(found, keras.metrics.Metric):
        return found
    name = getattr(found, "__name__", "metric")
    return keras.metrics.MeanMetricWrapper(found, name=name)
