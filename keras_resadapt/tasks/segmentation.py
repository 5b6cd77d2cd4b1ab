"""The task of telling the class of each pixel."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_resadapt import losses
from keras_resadapt.heads.refinenet import LightWeightRefineNet, RefineNet
from keras_resadapt.number_checks import check_integer
from keras_resadapt.tasks.classification import check_num_classes
from keras_resadapt.tasks.masks import (
    is_labelled,
    is_one_hot,
    per_labelled_pixel,
    weights_of,
)
from keras_resadapt.tasks.pixel_loss import PixelLoss
from keras_resadapt.tasks.pixel_metrics import MeanIoU, pixel_metrics
from keras_resadapt.tasks.task import Task

DECODERS = {"refinenet": RefineNet, "light_weight_refinenet": LightWeightRefineNet}


@keras.saving.register_keras_serializable("keras_resadapt")
class Segmentation(Task):
    """Semantic segmentation: a class for each pixel.

    Outputs are float32 logits of shape (batch, height, width, classes), with the
    height and width of the decoder's finest level, a quarter of those of the images.
    Targets are masks: class indices of shape (batch, height, width) or
    (batch, height, width, 1) of an integer dtype, or one-hot masks of shape
    (batch, height, width, classes).

    Logits are resized to the size of the masks before losses, ensemble, distillation
    and metrics (RS-Net, appendix C). In training and evaluation alike, the resizing
    is bilinear without antialiasing, with pixel centres at half coordinates
    (PyTorch's `align_corners=False`).

    Void pixels are those of `ignore_class`, and pixels of zeros in a one-hot mask.
    They count for nothing in any term of a loss or in any metric. A batch of void
    pixels has a loss of 0. Sample weights are per image, (batch,), or per pixel,
    (batch, height, width).

    The default metrics are `mean_iou`, `pixel_accuracy` and `mean_accuracy` over
    the whole set; see `tasks.ConfusionScores`.

    Images can have any height and width of at least the stride of the backbone. An
    operating point's resolution is the size of square images. For other images, it
    selects the BatchNormalization.

    Args:
        num_classes: Number of classes, at least 2.
        ignore_class: The class index of void pixels; None for masks without.
        decoder: `"refinenet"` for `heads.RefineNet`, or `"light_weight_refinenet"`
            for `heads.LightWeightRefineNet`.
        channels: Number of channels of the decoder.
        dropout: Rate of the decoder's dropout, in [0, 1).

    Raises:
        ValueError: An argument is out of its range.
    """

    divergences = ("kl", "alpha")
    any_shape = True

    def __init__(
        self,
        num_classes: int,
        ignore_class: int | None = 255,
        decoder: str = "refinenet",
        channels: int = 256,
        dropout: float = 0.5,
    ):
        self.num_classes = check_num_classes(num_classes)
        self.ignore_class = _check_ignore_class(ignore_class)
        if decoder not in DECODERS:
            raise ValueError(
                f"`decoder` must be one of {tuple(DECODERS)}. "
                f"Received: decoder={decoder!r}"
            )
        self.decoder = decoder
        self.channels = check_integer(channels, "channels")
        if not 0 <= dropout < 1:
            raise ValueError(
                f"`dropout` must be in [0, 1). Received: dropout={dropout!r}"
            )
        self.dropout = float(dropout)

    def head(self, layers, strides: Mapping[str, int]) -> RefineNet:
        return DECODERS[self.decoder](
            self.num_classes,
            self.channels,
            self.dropout,
            layers,
            len(strides),
            name="head",
        )

    # === Targets ===

    def check_targets(self, targets) -> None:
        """Raises an error for masks that cannot be used.

        The values are checked on TensorFlow alone. On other backends and under
        XLA, the loss of a class index that is out of range is NaN.
        """
        shape = tuple(targets.shape)
        if is_one_hot(targets, self.num_classes):
            return
        if len(shape) != 3 and not (len(shape) == 4 and shape[-1] == 1):
            raise ValueError(
                "Masks must have shape (batch, height, width), "
                "(batch, height, width, 1) or, for one-hot masks, "
                f"(batch, height, width, {self.num_classes}). Received: shape {shape}"
            )
        dtype = keras.backend.standardize_dtype(targets.dtype)
        if not dtype.startswith(("int", "uint")):
            raise ValueError(
                "Masks must hold class indices of an integer dtype, such as uint8. "
                f"Received: dtype {dtype}"
            )
        if keras.backend.backend() == "tensorflow":
            self._check_labels(targets)

    def _check_labels(self, masks) -> None:
        import tensorflow as tf

        masks = tf.cast(masks, tf.int64)
        valid = (masks >= 0) & (masks < self.num_classes)
        rule = f"Masks must hold class indices from 0 to {self.num_classes - 1}"
        if self.ignore_class is not None:
            valid |= masks == self.ignore_class
            rule += f", or {self.ignore_class} for void pixels"
        # The first pixel that is not valid, or else the first one
        wrong = tf.reshape(tf.cast(~valid, tf.uint8), (-1,))
        place = tf.argmax(tf.pad(wrong, [(0, 1)]))
        labels = tf.pad(tf.reshape(masks, (-1,)), [(0, 1)])
        pixels = tf.reduce_prod(tf.shape(masks, tf.int64)[1:])
        image = place // tf.maximum(pixels, 1)
        tf.debugging.Assert(
            tf.reduce_all(valid),
            [f"{rule}. Received: class", labels[place], "in image", image]
            + ["of the batch"],
        )

    def target_size(self, targets) -> tuple[Any, Any]:
        return tuple(ops.shape(targets)[1:3])

    def align(self, outputs, size):
        if not all(isinstance(side, int) for side in size):
            import tensorflow as tf  # where sizes can be tensors

            return tf.image.resize(outputs, tf.stack(size), "bilinear")
        if tuple(outputs.shape[1:3]) == tuple(size):
            return outputs
        return ops.image.resize(
            outputs, size, interpolation="bilinear", data_format="channels_last"
        )

    def divergence_weights(self, targets, sample_weight=None):
        classes = (self.num_classes, self.ignore_class)
        weights = weights_of(targets, *classes, sample_weight)
        return per_labelled_pixel(weights, is_labelled(targets, *classes))

    # === Training ===

    def make_loss(self, loss: Any = None) -> Callable:
        if isinstance(loss, PixelLoss):
            return loss
        return PixelLoss(self.num_classes, self.ignore_class, loss)

    def divergence(self, name: str) -> Callable:
        return {"kl": losses.Distillation, "alpha": losses.AlphaDivergence}[name]()

    def make_metrics(self, metrics: Sequence | None) -> list:
        return pixel_metrics(metrics, self.num_classes, self.ignore_class)

    # === Inference ===

    def make_score(self) -> keras.metrics.Metric:
        """Returns the mean IoU over a whole set."""
        return MeanIoU(self.num_classes, self.ignore_class)

    def response(self, outputs: Any, class_names: Sequence[str] | None = None) -> dict:
        """Returns the most probable class of each pixel, and all probabilities.

        Returns:
            `classes` of shape (batch, height, width), uint8 for up to 256 classes
            and int32 for more, and `probabilities`, float32 of shape
            (batch, height, width, classes).
        """
        import tensorflow as tf

        dtype = tf.uint8 if self.num_classes <= 256 else tf.int32
        # On a CPU, about three times as fast as `tf.argmax`
        classes = tf.math.top_k(outputs, 1).indices[..., 0]
        return {
            "classes": tf.cast(classes, dtype),
            "probabilities": tf.nn.softmax(outputs),
        }

    def get_config(self) -> dict[str, Any]:
        return {
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
            "decoder": self.decoder,
            "channels": self.channels,
            "dropout": self.dropout,
        }


def _check_ignore_class(ignore_class) -> int | None:
    if ignore_class is None:
        return None
    if isinstance(ignore_class, bool) or not hasattr(ignore_class, "__index__"):
        raise ValueError(
            "`ignore_class` must be an integer or None. "
            f"Received: ignore_class={ignore_class!r}"
        )
    return int(ignore_class)
