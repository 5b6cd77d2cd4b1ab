"""The task of telling classes of images apart."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_resadapt import losses
from keras_resadapt.heads.classifier import ClassifierHead
from keras_resadapt.tasks.logits_loss import loss_of_logits
from keras_resadapt.tasks.probability_metric import of_logits
from keras_resadapt.tasks.task import Task

# Classes in the answer of a signature
_TOP = 5


@keras.saving.register_keras_serializable("keras_resadapt")
class Classification(Task):
    """Classification of images.

    Outputs are float32 logits of shape (batch, classes). Targets are class indices
    of shape (batch,) or (batch, 1), or class probabilities of shape
    (batch, classes). The default loss is `losses.CrossEntropy`; sub-networks teach
    each other by `losses.Distillation` (`"kl"`) or `losses.AlphaDivergence`
    (`"alpha"`).

    Args:
        num_classes: Number of classes, at least 2.
        kernel_initializer: Initializer of the classifier's kernel.

    Raises:
        ValueError: `num_classes` is out of its range.
    """

    divergences = ("kl", "alpha")

    def __init__(
        self,
        num_classes: int = 1000,
        kernel_initializer: Any = "glorot_uniform",
    ):
        self.num_classes = check_num_classes(num_classes)
        self.kernel_initializer = kernel_initializer

    def head(self, layers, strides) -> ClassifierHead:
        # A new one for each head: an initializer draws its seed when it is made.
        initializer = keras.initializers.get(self.kernel_initializer)
        if initializer is self.kernel_initializer:
            initializer = initializer.clone()
        return ClassifierHead(self.num_classes, initializer, layers, name="head")

    def check_targets(self, targets) -> None:
        """Raises an error for class indices that are out of range.

        Only TensorFlow can look at values inside a compiled step. On other backends
        and under XLA, the loss of such a label is NaN.
        """
        shape = tuple(targets.shape)
        if keras.backend.backend() != "tensorflow" or (
            len(shape) > 1 and shape[-1] != 1
        ):
            return
        import tensorflow as tf

        labels = tf.reshape(tf.cast(targets, tf.int64), (-1,))
        low, high = tf.reduce_min(labels), tf.reduce_max(labels)
        valid = (low >= 0) & (high < self.num_classes) | (tf.size(labels) == 0)
        rule = f"Labels must be class indices from 0 to {self.num_classes - 1}."
        tf.debugging.Assert(
            valid, [f"{rule} Received: the smallest label is", low, "the largest", high]
        )

    def make_loss(self, loss: Any = None) -> Callable:
        return losses.CrossEntropy() if loss is None else loss_of_logits(loss)

    def divergence(self, name: str) -> Callable:
        return {"kl": losses.Distillation, "alpha": losses.AlphaDivergence}[name]()

    def make_metrics(self, metrics: Sequence | None) -> list:
        return [of_logits(metric, self.num_classes) for metric in metrics or ()]

    def response(self, outputs: Any, class_names: Sequence[str] | None = None) -> dict:
        """Returns logits, probabilities and the most probable classes.

        Returns:
            `logits` and `probabilities`, float32 of shape (batch, classes), and
            `classes` of shape (batch, min(5, classes)), the most probable first:
            strings, or int32 indices without `class_names`.
        """
        import tensorflow as tf

        top = min(_TOP, self.num_classes)
        classes = tf.math.top_k(outputs, top).indices
        if class_names is not None:
            classes = tf.gather(tf.constant(class_names), classes)
        return {
            "logits": outputs,
            "probabilities": tf.nn.softmax(outputs),
            "classes": classes,
        }

    def get_config(self) -> dict[str, Any]:
        initializer = self.kernel_initializer
        if isinstance(initializer, keras.initializers.Initializer):
            initializer = keras.initializers.serialize(initializer)
        return {"num_classes": self.num_classes, "kernel_initializer": initializer}


def check_num_classes(num_classes: int) -> int:
    """Returns the number of classes as an int, or raises a `ValueError`."""
    if (
        isinstance(num_classes, bool)
        or not hasattr(num_classes, "__index__")
        or num_classes < 2
    ):
        raise ValueError(
            "`num_classes` must be an integer of at least 2; a yes-or-no question has "
            f"2 classes. Received: num_classes={num_classes!r}"
        )
    return int(num_classes)
