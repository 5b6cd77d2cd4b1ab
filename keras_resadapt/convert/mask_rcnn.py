"""The names of the arrays of torchvision's Faster and Mask R-CNN checkpoints."""

from collections.abc import Iterator, Mapping

import numpy as np

from keras_resadapt.backbones import ResNet
from keras_resadapt.convert.layers import Target, kernel_targets, norm_targets
from keras_resadapt.convert.rsnet import resnet_names
from keras_resadapt.heads.mask_rcnn import MaskRCNN

# A key of every checkpoint, in both versions of the names
_MARK = "rpn.head.cls_logits.weight"
_OLD_MARK = "rpn.head.conv.weight"

# Classes of COCO, and the numbers of its categories, the background's 0 included
_COCO_CLASSES, _COCO_NUMBERS = 80, 91
_UNUSED_NUMBERS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)

# Keys of layers whose first axis has an entry or four entries per class
_CLASS_PREFIXES = (
    "roi_heads.box_predictor.",
    "roi_heads.mask_predictor.mask_fcn_logits.",
)


def is_mask_rcnn(state_dict: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a checkpoint is one of torchvision's detectors."""
    return _MARK in state_dict


def mask_rcnn_targets(model, state_dict: Mapping[str, np.ndarray]) -> dict[str, Target]:
    """Returns the keys of a detector with the variables that they fill.

    These are the checkpoints of `maskrcnn_resnet50_fpn` and
    `fasterrcnn_resnet50_fpn`, with the present names of the neck and of the heads or
    with those before torchvision 0.14. BatchNormalization is copied to every
    resolution. The published files have the 91 numbers of COCO's categories, of which
    10 are not used. A model with `num_classes=80` gets the classes of the other ones,
    in their order, as `data.load_source` numbers them. The files expect images scaled
    by `preprocessing="imagenet"`, and, for COCO_V1,
    `load_pytorch_state_dict(..., bn_epsilon=0)`.

    Args:
        model: A network with a ResNet as its `backbone` and a `heads.MaskRCNN` as
            its `head`.
        state_dict: The arrays of the checkpoint by key.

    Raises:
        TypeError: The backbone is no ResNet.
        ValueError: The head is no `MaskRCNN`.
    """
    if not isinstance(model.backbone, ResNet):
        raise TypeError(
            "`model` must have a ResNet backbone for the checkpoint of a detector. "
            f"Received: {type(model.backbone).__name__}"
        )
    if not isinstance(model.head, MaskRCNN):
        raise ValueError(
            "`model` must be a detector for the checkpoint of a detector. "
            f"Received: a model with a {type(model.head).__name__}"
        )
    targets = {}
    for name, layer in resnet_names(model):
        name = f"backbone.body.{name}"
        if hasattr(layer, "kernel"):
            targets |= kernel_targets(name, layer)
        else:
            targets |= norm_targets(name, getattr(layer, "branches", [layer]))
    for name, layer in _conv_names(model.head, _OLD_MARK in state_dict):
        targets |= kernel_targets(name, layer)
    targets |= _box_targets(model.head) | _upsampling_targets(model.head)
    return _with_used_classes(targets, state_dict, model.head.num_classes)


def _with_used_classes(
    targets: dict[str, Target], state_dict: Mapping[str, np.ndarray], num_classes: int
) -> dict[str, Target]:
    """Returns targets that leave out the unused numbers of COCO's categories."""
    scores = np.shape(state_dict.get("roi_heads.box_predictor.cls_score.bias"))
    if num_classes != _COCO_CLASSES or scores != (_COCO_NUMBERS,):
        return targets
    used = np.setdiff1d(np.arange(_COCO_NUMBERS), _UNUSED_NUMBERS)

    def selecting(to_keras):
        def convert(array):
            by_class = array.reshape(_COCO_NUMBERS, -1, *array.shape[1:])[used]
            return to_keras(by_class.reshape(-1, *array.shape[1:]))

        return convert

    selected = {
        key: (variables, selecting(to_keras))
        for key, (variables, to_keras) in targets.items()
        if key.startswith(_CLASS_PREFIXES)
    }
    return targets | selected


def _conv_names(head: MaskRCNN, old: bool) -> Iterator[tuple]:
    """Yields the convolutions of a head with their names."""
    part = "" if old else ".0"
    for i, (lateral, output) in enumerate(zip(head.fpn.laterals, head.fpn.outputs)):
        yield f"backbone.fpn.inner_blocks.{i}{part}", lateral
        yield f"backbone.fpn.layer_blocks.{i}{part}", output
    yield f"rpn.head.conv{part}{part}", head.rpn.conv
    yield "rpn.head.cls_logits", head.rpn.objectness
    yield "rpn.head.bbox_pred", head.rpn.deltas
    if head.mask_head is None:
        return
    for i, conv in enumerate(head.mask_head.convs):
        name = f"mask_fcn{i + 1}" if old else f"{i}.0"
        yield f"roi_heads.mask_head.{name}", conv
    yield "roi_heads.mask_predictor.mask_fcn_logits", head.mask_head.masks


def _box_targets(head: MaskRCNN) -> dict[str, Target]:
    first, second = head.box_head.hidden
    channels = head.rpn.conv.filters
    targets = {
        **kernel_targets("roi_heads.box_head.fc6", first),
        **kernel_targets("roi_heads.box_head.fc7", second),
        **kernel_targets("roi_heads.box_predictor.cls_score", head.box_head.classes),
        **kernel_targets("roi_heads.box_predictor.bbox_pred", head.box_head.deltas),
    }

    def channels_last(w):
        # (O, C * H * W) to (H * W * C, O)
        w = w.reshape(len(w), channels, -1)
        return w.transpose(2, 1, 0).reshape(-1, len(w))

    key = "roi_heads.box_head.fc6.weight"
    return targets | {key: ([first.kernel], channels_last)}


def _upsampling_targets(head: MaskRCNN) -> dict[str, Target]:
    if head.mask_head is None:
        return {}
    layer, name = head.mask_head.upsampling, "roi_heads.mask_predictor.conv5_mask"
    return {
        # (I, O, H, W) to (H, W, O, I)
        f"{name}.weight": ([layer.kernel], lambda w: np.transpose(w, (2, 3, 1, 0))),
        f"{name}.bias": ([layer.bias], np.asarray),
    }
