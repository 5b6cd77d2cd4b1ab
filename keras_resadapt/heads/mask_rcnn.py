"""The neck and the heads of Faster R-CNN and Mask R-CNN."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_resadapt import boxes
from keras_resadapt.boxes import DetectionSettings
from keras_resadapt.boxes.assignment import take
from keras_resadapt.boxes.sampling import Priorities
from keras_resadapt.boxes.settings import BOX_WEIGHTS
from keras_resadapt.heads.box_head import BoxHead
from keras_resadapt.heads.fpn import FPN
from keras_resadapt.heads.mask_head import MaskHead
from keras_resadapt.heads.random_order import random_order
from keras_resadapt.heads.rpn import RPNHead
from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.resize import spatial_size

# Levels of the backbone's pyramid that the neck takes, from the coarsest
_MOST_LEVELS = 4

# Height and width of the features of a box
_BOX_SIZE, _MASK_SIZE = 7, 14

# Size of the anchors of a level, over its stride
_ANCHOR_SCALE = 8


class UsedEntries(keras.layers.Layer):
    """The entries that some image of the batch uses, at least one.

    It is a layer so that the cost of an operating point is that of the full number
    of entries: only the pass itself leaves the unused ones out.

    Call arguments:
        inputs: Tensor of shape (batch, n, ...), whose unused entries come last. If n
            is 0, there is one unused entry of zeros.
        count: Number of used entries of each image, of shape (batch,).

    Returns:
        A tensor of shape (batch, used, ...) with 1 <= used <= max(n, 1).
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs, count):
        used = inputs[:, : ops.maximum(ops.max(count), 1)]
        if inputs.shape[1]:  # known, and not 0
            return used
        missing = ops.maximum(1 - ops.shape(used)[1], 0)
        after = [(0, 0)] * (len(inputs.shape) - 2)
        return ops.pad(used, [(0, 0), (0, missing), *after])

    def compute_output_spec(self, inputs, count=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


class MaskRCNN(Block):
    """The neck and the heads of a Mask R-CNN, as torchvision computes them.

    A feature pyramid network takes the four coarsest levels of the backbone, whose
    channels can depend on the operating point. Everything behind its lateral
    convolutions is shared by all operating points.

    Args:
        num_classes: Number of classes, without the background.
        strides: Stride of each level of the backbone's pyramid, from fine to coarse.
        masks: Whether there is a mask head; Faster R-CNN has none.
        channels: Number of channels of the neck, the RPN and the mask head.
        units: Number of outputs of the box head's hidden layers.
        settings: Thresholds and numbers of boxes.
        layers: The layers that it is made of.

    Call arguments:
        pyramid: Features by level, from fine to coarse, each of shape
            (batch, height, width, channels).
        point: The operating point.
        image_size: Height and width of the padded images in pixels, integers or
            scalar tensors; by default, those of the finest features times their
            stride.
        sizes: Height and width of each image before it was padded at the bottom and
            on the right, integers of shape (batch, 2); by default, `image_size`.
        targets: None for inference. For training, a dict: `boxes` of shape
            (batch, objects, 4) as (x1, y1, x2, y2) in pixels, `classes` of shape
            (batch, objects) from 0 to `num_classes - 1`, `count` of shape (batch,),
            the true number of objects of each image, and with a mask head `masks`,
            0 and 1 of shape (batch, objects, height, width), which can have another
            size than the images. Entries beyond `count`, boxes without an area inside
            the image and classes out of range are left out.
        mask_extent: Height and width in pixels of the part of the padded images, from
            the top left, that the masks of the targets cover; by default,
            `image_size`.

    Returns:
        In inference, a dict of at most `settings.max_detections` detections per
        image, the best first: `boxes` (batch, detections, 4) in pixels, `scores` and
        `classes` (batch, detections), `count` (batch,), and with a mask head
        `masks`, logits of shape (batch, detections, 28, 28) inside each box. Unused
        entries have a class of -1 and zeros.

        With targets, the dict that `boxes.detection_losses` takes: logits, deltas,
        targets and weights of the sampled anchors and boxes.

    Reference:
        Mask R-CNN (https://arxiv.org/abs/1703.06870), as torchvision's
        `maskrcnn_resnet50_fpn` computes it.
    """

    def __init__(
        self,
        num_classes: int,
        strides: Mapping[str, int],
        masks: bool = True,
        channels: int = 256,
        units: int = 1024,
        settings: DetectionSettings = DetectionSettings(),
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        # Pixel coordinates do not fit 16 bits.
        super().__init__(autocast=False, **kwargs)
        self.num_classes = num_classes
        self.settings = settings
        self.strides = dict(list(strides.items())[-_MOST_LEVELS:])
        self.anchor_sizes = _anchor_sizes(settings, list(self.strides.values()))
        self.fpn = FPN(len(self.strides), channels, layers, name="fpn")
        num_anchors = len(settings.aspect_ratios)
        self.rpn = RPNHead(num_anchors, channels, layers, name="rpn")
        self.used_entries = UsedEntries(name="used_entries")
        self.box_head = BoxHead(num_classes, units, layers, name="box_head")
        self.mask_head = None
        if masks:
            self.mask_head = MaskHead(num_classes, channels, layers, name="mask_head")
        self.seed_generator = keras.random.SeedGenerator()

    def call(
        self,
        pyramid: Mapping[str, Any],
        point,
        training=None,
        image_size: tuple[Any, Any] | None = None,
        sizes: Any = None,
        targets: Mapping[str, Any] | None = None,
        mask_extent: tuple[Any, Any] | None = None,
    ):
        pyramid = {name: pyramid[name] for name in self.strides}
        finest, *_ = pyramid.values()
        if image_size is None:
            stride, *_ = self.strides.values()
            image_size = tuple(side * stride for side in spatial_size(finest))
        if sizes is None:
            sizes = ops.broadcast_to(
                ops.convert_to_tensor(image_size, "int32"), (ops.shape(finest)[0], 2)
            )
        features = self.fpn(pyramid, point=point)
        if targets is None:
            return self.detect(features, point, image_size, sizes)
        order = random_order(self.seed_generator)
        return self.compare(
            features, point, image_size, sizes, targets, order, mask_extent
        )

    # === Parts ===

    def anchors(self, features: list, image_size: tuple[Any, Any]) -> list:
        """Returns the anchors of each level; see `boxes.grid_anchors`."""
        grids = [spatial_size(x) for x in features]
        ratios = self.settings.aspect_ratios
        return boxes.grid_anchors(grids, image_size, self.anchor_sizes, ratios)

    def propose(self, objectness, deltas, anchors, sizes, training: bool) -> tuple:
        """Returns the proposals of the RPN; see `boxes.select_proposals`."""
        mode = 0 if training else 1
        return boxes.select_proposals(
            [ops.stop_gradient(x) for x in objectness],
            [ops.stop_gradient(x) for x in deltas],
            anchors,
            sizes,
            self.settings.rpn_candidates[mode],
            self.settings.rpn_proposals[mode],
            self.settings.rpn_nms_iou,
        )

    def align(self, features: list, rois, size: int):
        """Returns the features of boxes; see `boxes.pyramid_roi_align`."""
        strides = list(self.strides.values())
        return boxes.pyramid_roi_align(features[: len(strides)], rois, strides, size)

    def classify(self, features: list, rois, point) -> tuple:
        """Runs the box head.

        Returns:
            Logits of shape (batch, boxes, num_classes + 1), and deltas of shape
            (batch, boxes, num_classes + 1, 4).
        """
        x = self.align(features, rois, _BOX_SIZE)
        logits, deltas = self.box_head(x, point=point)
        shape = (*ops.shape(rois)[:2], self.num_classes + 1)
        return ops.reshape(logits, shape), ops.reshape(deltas, (*shape, 4))

    def segment(self, features: list, rois, classes, point):
        """Runs the mask head.

        Args:
            features: Features of each level.
            rois: Boxes of shape (batch, boxes, 4).
            classes: Class of each box, 0 for the background, of shape (batch, boxes).
            point: The operating point.

        Returns:
            Logits of the class's mask, of shape (batch, boxes, 28, 28).
        """
        x = self.align(features, rois, _MASK_SIZE)
        logits = self.mask_head(x, point=point)
        one_hot = ops.one_hot(ops.reshape(classes, (-1,)), self.num_classes + 1)
        logits = ops.einsum("nhwc,nc->nhw", logits, ops.cast(one_hot, logits.dtype))
        return ops.reshape(logits, (*ops.shape(rois)[:2], *ops.shape(logits)[1:]))

    # === Inference ===

    def detect(self, features: list, point, image_size, sizes) -> dict[str, Any]:
        """Returns the detections; see the class."""
        objectness, deltas = self.rpn(features, point=point)
        anchors = self.anchors(features, image_size)
        rois, _, count = self.propose(objectness, deltas, anchors, sizes, False)
        used = point.call(self.used_entries, rois, count=count)
        logits, deltas = self.classify(features, used, point)
        exists = ops.arange(ops.shape(used)[1])[None] < count[:, None]
        scores = ops.where(exists[..., None], ops.softmax(logits), 0.0)
        settings = self.settings
        detections = boxes.select_detections(
            boxes.decode(deltas, used[:, :, None], BOX_WEIGHTS)[:, :, 1:],
            scores[..., 1:],
            sizes,
            settings.score_threshold,
            settings.nms_iou,
            settings.max_detections,
        )
        if self.mask_head is not None:
            detections["masks"] = self.masks_of(features, detections, point)
        return detections

    def masks_of(self, features: list, detections: Mapping[str, Any], point):
        """Returns the mask logits of detections, zeros for unused entries."""
        rois, count = detections["boxes"], detections["count"]
        used = point.call(self.used_entries, rois, count=count)
        number, used_number = rois.shape[1], ops.shape(used)[1]
        classes = detections["classes"][:, :used_number] + 1
        masks = self.segment(features, used, classes, point)
        exists = classes > 0
        masks = ops.where(exists[..., None, None], masks, 0.0)
        batch, _, *size = ops.shape(masks)
        unused = ops.zeros((batch, number - used_number, *size))
        masks = ops.concatenate([masks, unused], axis=1)
        return ops.reshape(masks, (batch, number, *size))

    # === Training ===

    def compare(
        self,
        features,
        point,
        image_size,
        sizes,
        targets,
        order: Priorities,
        mask_extent=None,
    ) -> dict[str, Any]:
        """Returns what the losses compare; see the class.

        Args:
            features: Features of each level.
            point, image_size, sizes, targets: As for a call.
            order: Which anchors and boxes are sampled first.
            mask_extent: As for a call.
        """
        extent = image_size if mask_extent is None else mask_extent
        count = ops.cast(targets["count"], "int32")
        targets = {
            name: point.call(self.used_entries, targets[name], count=count)
            for name in ("boxes", "classes", "masks")
            if name in targets
        }
        objects = boxes.valid_targets(
            targets | {"count": count}, sizes, self.num_classes
        )
        objectness, deltas = self.rpn(features, point=point)
        anchors = self.anchors(features, image_size)
        rois, _, count = self.propose(objectness, deltas, anchors, sizes, True)
        sampled = boxes.assign_anchors(
            ops.concatenate(anchors), sizes, objects, self.settings, order
        )
        indices = sampled.pop("indices")
        exists = ops.arange(ops.shape(rois)[1])[None] < count[:, None]
        samples = boxes.assign_boxes(rois, exists, objects, self.settings, order)
        return {
            "objectness": take(ops.concatenate(objectness, axis=1), indices),
            "anchor_deltas": take(ops.concatenate(deltas, axis=1), indices),
            **{f"anchor_{name}": value for name, value in sampled.items()},
            **self.compare_boxes(features, samples, point),
            **self.compare_masks(features, samples, targets, extent, sizes, point),
        }

    def compare_boxes(self, features, samples, point) -> dict[str, Any]:
        """Returns outputs, targets and weights of the sampled boxes."""
        count = ops.sum(ops.cast(samples["weights"] > 0, "int32"), axis=1)
        used = point.call(self.used_entries, samples["boxes"], count=count)
        logits, deltas = self.classify(features, used, point)
        number = ops.shape(used)[1]
        classes = samples["classes"][:, :number]
        one_hot = ops.one_hot(classes, self.num_classes + 1, dtype="float32")
        return {
            "class_logits": logits,
            "box_deltas": ops.sum(deltas * one_hot[..., None], axis=2),
            "box_classes": classes,
            "box_targets": samples["targets"][:, :number],
            "box_weights": samples["weights"][:, :number],
        }

    def compare_masks(
        self, features, samples, targets, extent, sizes, point
    ) -> dict[str, Any]:
        """Returns outputs, targets and weights of the positive boxes."""
        if self.mask_head is None:
            return {}
        classes = samples["classes"]
        count = ops.sum(ops.cast(classes > 0, "int32"), axis=1)
        most = int(self.settings.box_samples * self.settings.box_positives)
        rois = samples["boxes"][:, :most]
        used = point.call(self.used_entries, rois, count=count)
        number = ops.shape(used)[1]
        classes, matched = classes[:, :number], samples["matched"][:, :number]
        return {
            "mask_logits": self.segment(features, used, classes, point),
            "mask_targets": boxes.mask_targets(
                targets["masks"], used, matched, extent, sizes=sizes
            ),
            "mask_weights": ops.cast(classes > 0, "float32"),
        }


def _anchor_sizes(settings: DetectionSettings, strides: list[int]) -> tuple:
    """Returns the size of the anchors of each level, one more than there are strides.

    Raises:
        ValueError: The settings have another number of sizes.
    """
    sizes = settings.anchor_sizes
    if sizes is None:
        return tuple(_ANCHOR_SCALE * s for s in [*strides, 2 * strides[-1]])
    if len(sizes) != len(strides) + 1:
        raise ValueError(
            f"`anchor_sizes` must have {len(strides) + 1} entries, one for each level "
            f"of the neck. Received: anchor_sizes={sizes}"
        )
    return tuple(sizes)
