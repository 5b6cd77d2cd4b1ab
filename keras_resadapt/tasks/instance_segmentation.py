"""The task of finding objects, with their boxes and masks."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.boxes import DetectionSettings
from keras_resadapt.heads.mask_rcnn import MaskRCNN
from keras_resadapt.layers import resize_bilinear
from keras_resadapt.layers.preprocessing import MEAN_COLOR
from keras_resadapt.layers.resize import spatial_size
from keras_resadapt.number_checks import check_integer
from keras_resadapt.tasks.detection_loss import DetectionLoss, MeanTerms
from keras_resadapt.tasks.detection_scorer import DetectionScorer, own_pixels
from keras_resadapt.tasks.task import Task

# Canvases of `detect` are a multiple of this number of pixels.
_STRIDE = 32


@keras.saving.register_keras_serializable("keras_resadapt")
class InstanceSegmentation(Task):
    """Detection of objects: a box, a class, a score and a mask of each.

    The neck and the heads are those of `heads.MaskRCNN`, which describes the outputs.

    Images are padded canvases of shape (batch, height, width, 3), as
    `data.detection_training_batches` returns them, with the image at the top left. The
    resolution of an operating point is the short side of the image in pixels. The
    network pads canvases to a multiple of its stride. Boxes are in pixels of the
    canvas; `detect` takes images of any sizes and returns boxes in their own pixels.

    Targets for training are a dict with `boxes` (batch, objects, 4) as x1, y1, x2, y2,
    `classes` (batch, objects), `masks` (batch, objects, height, width) of the size of
    the canvas, `count` (batch,) and optionally `size` (batch, 2), height and width of
    the images on their canvases; see `heads.MaskRCNN`. Each sub-network is trained
    with the ground truth (MutualNet, section 4.3): there is no distillation. The terms
    of the loss are reported as `objectness_loss`, `rpn_box_loss`, `class_loss`,
    `box_loss` and `mask_loss`.

    `evaluate` takes the batches of `data.detection_evaluation_batches` and returns
    COCO's average precision at every operating point; see `tasks.CocoMetric`. It needs
    pycocotools. With several workers, each runs its share of the images.

    A quantized network has quantized layers in its backbone, neck and heads, except for
    the transposed convolution of the mask head, which stays in float.

    It runs on TensorFlow only, without XLA, because the numbers of boxes that layers
    take depend on the images.

    Args:
        num_classes: Number of classes, without the background.
        masks: Whether to return masks (Mask R-CNN), or boxes alone (Faster R-CNN).
        channels: Number of channels of the neck, the RPN and the mask head.
        units: Number of outputs of the box head's hidden layers.
        aspect: The largest long side of an image as a multiple of the resolution, at
            least 1. Images whose long side would be larger are scaled down.
        **settings: Fields of `boxes.DetectionSettings`.

    Raises:
        TypeError, ValueError: An argument that cannot work.

    Reference:
        Mask R-CNN (https://arxiv.org/abs/1703.06870).
    """

    any_shape = True
    padded = True
    takes_targets = True
    compiles = False

    def __init__(
        self,
        num_classes: int,
        masks: bool = True,
        channels: int = 256,
        units: int = 1024,
        aspect: float = 5 / 3,
        **settings,
    ):
        self.num_classes = check_integer(num_classes, "num_classes")
        self.masks = bool(masks)
        self.channels = check_integer(channels, "channels")
        self.units = check_integer(units, "units")
        if not 1 <= aspect < math.inf:
            raise ValueError(
                f"`aspect` must be at least 1. Received: aspect={aspect!r}"
            )
        self.aspect = float(aspect)
        self.settings = DetectionSettings(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in settings.items()
            }
        )

    def head(self, layers, strides: Mapping[str, int]) -> MaskRCNN:
        require_tensorflow("InstanceSegmentation")
        return MaskRCNN(
            self.num_classes,
            strides,
            self.masks,
            self.channels,
            self.units,
            self.settings,
            layers,
            name="head",
        )

    # === Images ===

    def image_size(self, resolution: int) -> tuple[int, int]:
        """Returns the size of an image with the longest possible side."""
        return resolution, round(resolution * self.aspect)

    def resize(self, images: Any, size: tuple[Any, Any], resize: Callable) -> Any:
        """Resizes bilinearly, antialiased, as the images for evaluation are resized."""
        images = ops.cast(images, "float32")
        known = all(isinstance(side, int) for side in (*images.shape[1:3], *size))
        if known:
            return resize_bilinear(images, size)
        import tensorflow as tf

        return tf.image.resize(images, tf.stack(size), antialias=True)

    def pad(self, images: Any, stride: int) -> Any:
        """Pads with zeros at the bottom and on the right."""
        size = spatial_size(images)
        after = [a - b for a, b in zip(_padded(size, stride), size)]
        return _pad(images, [(0, 0), *((0, n) for n in after), (0, 0)])

    def head_inputs(
        self, images: Any, stride: int, targets: Any = None, training: bool = False
    ) -> dict[str, Any]:
        size = spatial_size(images)
        padded = _padded(size, stride)
        targets = targets or {}
        sizes = targets.get("size")
        if sizes is None:
            sizes = ops.broadcast_to(
                ops.convert_to_tensor(size, "int32"), (ops.shape(images)[0], 2)
            )
        inputs = {"image_size": padded, "sizes": sizes}
        if not training or "boxes" not in targets:
            return inputs
        return {**inputs, "targets": targets, "mask_extent": size}

    def prepare_images(
        self, images: Any, resolution: int, sizes: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resizes images and places them on one canvas each; see `Network.detect`.

        The pixels equal those of `data.detection_evaluation_batches` and of exported
        networks bit by bit: a quantizer turns the smallest difference of two values
        into a whole step if it rounds one up and the other down.
        """
        images = _unpadded(images, sizes)
        originals = np.array([image.shape[:2] for image in images], "int32")
        new = _resized_sizes(originals, resolution, self.image_size(resolution)[1])
        height, width = _padded(tuple(map(int, new.max(axis=0))), _STRIDE)
        canvases = np.zeros((len(images), height, width, 3), "float32")
        color = np.array(MEAN_COLOR, "float32")
        for canvas, image, size in zip(canvases, images, new.tolist()):
            canvas[: size[0], : size[1]] = _resized(image, size) - color
        canvases += color
        return canvases, {"size": new, "original_size": originals}

    # === Targets ===

    def check_targets(self, targets) -> None:
        """Raises a `ValueError` for targets that a network cannot be trained with."""
        wanted = {"boxes": 3, "classes": 2, "count": 1}
        if self.masks:
            wanted["masks"] = 4
        if not isinstance(targets, Mapping) or not wanted.keys() <= targets.keys():
            found = sorted(targets) if isinstance(targets, Mapping) else type(targets)
            raise ValueError(
                f"Targets must be a dict with the keys {sorted(wanted)}. "
                f"Received: {found}"
            )
        for key, rank in wanted.items():
            dtype = keras.backend.standardize_dtype(targets[key].dtype)
            if targets[key].ndim != rank or dtype == "string":  # None if unknown
                raise ValueError(
                    f"`{key}` of the targets must be numbers with {rank} "
                    f"dimension{'s' if rank > 1 else ''}, as "
                    "`data.detection_training_batches` returns them. "
                    f"Received: {dtype} of shape {targets[key].shape}"
                )

    def scale_targets(self, targets: Any, size: tuple, new_size: tuple) -> Any:
        """Scales boxes and sizes; masks can have another size than the images."""
        scale = [
            ops.cast(new, "float32") / ops.cast(old, "float32")
            for new, old in zip(new_size, size)
        ]
        targets = dict(targets)
        if "boxes" in targets:
            factors = ops.stack([scale[1], scale[0]] * 2)
            targets["boxes"] = ops.cast(targets["boxes"], "float32") * factors
        if "size" in targets:
            sizes = ops.cast(targets["size"], "float32") * ops.stack(scale)
            sizes = ops.maximum(ops.round(sizes), 1.0)
            targets["size"] = ops.cast(sizes, "int32")
        return targets

    def targets_of_view(self, targets: Any, index: int) -> Any:
        sizes = targets["size"]
        if isinstance(sizes, (tuple, list)):
            sizes = sizes[index]
        return {**targets, "size": sizes}

    def inference_targets(self, targets: Any) -> Any:
        return {"size": ops.cast(targets["size"], "int32")}

    def in_own_pixels(self, targets: Any, outputs: Any) -> dict[str, Any]:
        return own_pixels(targets, outputs)

    # === Training and evaluation ===

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""
        terms = ("objectness", "rpn_box", "class", "box")
        return (*terms, "mask") if self.masks else terms

    @property
    def metric_shape(self) -> tuple[int, ...]:
        return (len(self.loss_terms),)

    def make_loss(self, loss: Any = None) -> DetectionLoss:
        if loss is None:
            return DetectionLoss(self.settings.rpn_beta, self.settings.box_beta)
        if not isinstance(loss, DetectionLoss):
            raise ValueError(
                "`loss` must be None or a `tasks.DetectionLoss`. "
                f"Received: loss={loss!r}"
            )
        betas = self.settings.rpn_beta, self.settings.box_beta
        if (loss.rpn_beta, loss.box_beta) != betas:
            raise ValueError(
                "`loss` must have the `rpn_beta` and the `box_beta` of the task, "
                f"{betas}, with which the terms of the loss are reported. "
                f"Received: {(loss.rpn_beta, loss.box_beta)}"
            )
        return loss

    def make_metrics(self, metrics: Sequence | None) -> list:
        """Returns the metric of the terms of the loss."""
        if metrics:
            raise ValueError(
                "`metrics` must be None for detection: `evaluate` returns the average "
                f"precision of COCO. Received: metrics={metrics}"
            )
        return [MeanTerms(self.loss_terms)]

    def metric_inputs(self, targets: Any, outputs: Any, sample_weight: Any = None):
        losses = self.make_loss().terms(outputs, sample_weight)
        terms = ops.stack([losses[name] for name in self.loss_terms])
        return terms, terms

    def make_scorer(self) -> DetectionScorer:
        return DetectionScorer(self.num_classes, self.masks)

    # === Inference ===

    def response(self, outputs: Any, class_names: Sequence[str] | None = None) -> dict:
        """Returns the detections, with the names of their classes.

        Returns:
            `boxes`, `scores`, `classes`, `count` and `masks` of `heads.MaskRCNN`.
            `classes` are strings if there are names, empty in unused entries.
        """
        if class_names is None:
            return dict(outputs)
        import tensorflow as tf

        names = tf.constant(["", *class_names])
        return {**outputs, "classes": tf.gather(names, outputs["classes"] + 1)}

    def get_config(self) -> dict[str, Any]:
        return {
            "num_classes": self.num_classes,
            "masks": self.masks,
            "channels": self.channels,
            "units": self.units,
            "aspect": self.aspect,
            **dataclasses.asdict(self.settings),
        }


def _padded(size: tuple, stride: int) -> tuple:
    """Returns a size rounded up to a multiple of a stride."""
    return tuple((side + stride - 1) // stride * stride for side in size)


def _pad(values: Any, after: list) -> Any:
    """Pads with zeros, where numbers can be tensors."""
    if all(isinstance(n, int) for pair in after for n in pair):
        return ops.pad(values, after) if any(map(any, after)) else values
    import tensorflow as tf

    return tf.pad(values, tf.stack([tf.stack(pair) for pair in after]))


def _resized_sizes(sizes: np.ndarray, resolution: int, limit: int) -> np.ndarray:
    """Returns the sizes of images with a short side of `resolution` pixels.

    Args:
        sizes: Height and width of each image, of shape (batch, 2).
        resolution: The new short side.
        limit: The largest long side. Images that exceed it get a smaller scale.

    Returns:
        int32 array of shape (batch, 2). In float32, as in `data`, so that the same
        sides are rounded up.
    """
    sides = sizes.astype("float32")
    scales = np.minimum(
        np.float32(resolution) / sides.min(axis=1),
        np.float32(limit) / sides.max(axis=1),
    )
    return np.maximum(np.round(sides * scales[:, None]), 1).astype("int32")


def _resized(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resizes an image bilinearly, antialiased unless both sides grow."""
    import tensorflow as tf

    shrinks = image.shape[0] > size[0] or image.shape[1] > size[1]
    return tf.image.resize(image, size, antialias=shrinks).numpy()


def _unpadded(images: Any, sizes: Any) -> list[np.ndarray]:
    """Returns images as a list of arrays, or raises a `ValueError`."""
    arrays = [ops.convert_to_numpy(image).astype("float32") for image in images]
    if sizes is not None:
        if len(sizes) != len(arrays):
            raise ValueError(
                "`sizes` must have one entry per image. "
                f"Received: {len(sizes)} sizes for {len(arrays)} images"
            )
        sizes = np.asarray(sizes).astype(int).tolist()
        arrays = [image[:h, :w] for image, (h, w) in zip(arrays, sizes)]
    if not arrays:
        raise ValueError("`images` must hold at least one image.")
    for i, image in enumerate(arrays):
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                "`images` must have shape (height, width, 3). "
                f"Received: shape {image.shape} of image {i}"
            )
        if not np.isfinite(image).all():
            raise ValueError(
                "`images` must hold finite pixel values. Received: NaN or infinity "
                f"in image {i}"
            )
    return arrays
