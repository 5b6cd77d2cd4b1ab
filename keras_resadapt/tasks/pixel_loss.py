"""Losses of each pixel that is not void."""

from typing import Any

import keras
from keras import ops

from keras_resadapt.losses import soft_cross_entropy
from keras_resadapt.tasks.logits_loss import loss_of_logits
from keras_resadapt.tasks.masks import (
    is_labelled,
    is_one_hot,
    labels_of,
    per_labelled_pixel,
    weights_of,
)


class _CrossEntropy(keras.losses.Loss):
    """Cross-entropy of class indices, several times as fast as that of Keras.

    Call arguments:
        y_true: Class indices of shape (batch, height, width).
        y_pred: Logits of shape (batch, height, width, classes).
    """

    def call(self, y_true, y_pred):
        labels = ops.cast(y_true, "int32")
        targets = ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        return soft_cross_entropy(targets, y_pred)


@keras.saving.register_keras_serializable("keras_resadapt")
class PixelLoss(keras.losses.Loss):
    """The mean of a loss over the pixels that are not void.

    A batch without labelled pixels has a loss of 0. The loss of a class index that
    is neither a class nor void is NaN.

    Args:
        num_classes: Number of classes.
        ignore_class: The class index of void pixels, or None.
        loss: A `keras.losses.Loss` that takes logits; None for the cross-entropy.

    Call arguments:
        y_true: Masks: class indices of shape (batch, height, width) or
            (batch, height, width, 1), or one-hot of shape
            (batch, height, width, classes).
        y_pred: Logits of shape (batch, height, width, classes).
        sample_weight: Optional weights per image, (batch,), or per pixel,
            (batch, height, width).
    """

    def __init__(
        self,
        num_classes: int,
        ignore_class: int | None = 255,
        loss: Any = None,
        name: str = "pixel_loss",
        **kwargs,
    ):
        if isinstance(loss, dict):  # a configuration
            loss = keras.saving.deserialize_keras_object(loss)
        loss = None if loss is None else loss_of_logits(loss)
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.loss = loss

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true = ops.convert_to_tensor(y_true)
        classes = (self.num_classes, self.ignore_class)
        labelled = is_labelled(y_true, *classes)
        weights = weights_of(y_true, *classes, sample_weight)
        if is_one_hot(y_true, self.num_classes):
            targets = y_true
        else:
            labels = labels_of(y_true, self.num_classes)
            valid = ops.logical_and(labels >= 0, labels < self.num_classes)
            targets = ops.where(ops.logical_and(labelled, valid), labels, 0)
            wrong = ops.logical_and(labelled, ops.logical_not(valid))
            weights = ops.where(wrong, float("nan"), weights)
        loss = self.loss or self._cross_entropy(y_true)
        if loss.reduction != "sum":
            weights = per_labelled_pixel(weights, labelled)
        return loss(targets, y_pred, weights)

    def _cross_entropy(self, masks) -> keras.losses.Loss:
        if is_one_hot(masks, self.num_classes):
            return keras.losses.CategoricalCrossentropy(from_logits=True)
        return _CrossEntropy(name="cross_entropy")

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
            "loss": keras.saving.serialize_keras_object(self.loss),
        }
