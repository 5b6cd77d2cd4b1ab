"""Mask R-CNN that runs at any width and at several resolutions.

MutualNet, section 4.3, and RS-Net with the same task.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_resadapt.backbones import VGG, Backbone, MobileNetV2, ResNet
from keras_resadapt.boxes import DetectionSettings
from keras_resadapt.layers.arguments import as_plain
from keras_resadapt.layers.switchable_batch_normalization import check_resolutions
from keras_resadapt.models.mutualnet import MutualNet
from keras_resadapt.models.rsnet import RSNet
from keras_resadapt.models.switchable import check_width_range
from keras_resadapt.models.weights import load_weights_file
from keras_resadapt.number_checks import check_integer
from keras_resadapt.tasks import InstanceSegmentation

RESOLUTIONS = (600, 480, 360, 240)
BACKBONES = ("vgg16", "resnet50", "resnet18", "mobilenet_v2")


def MutualMaskRCNN(
    num_classes: int = 80,
    backbone: str = "vgg16",
    width_range: tuple[float, float] = (0.25, 1.0),
    resolutions: Sequence[int] = RESOLUTIONS,
    max_size: int = 1000,
    weights: str | None = None,
    masks: bool = True,
    depths: Sequence[int] | None = None,
    filters: Sequence[int] | None = None,
    stem: str = "imagenet",
    channels: int = 256,
    units: int = 1024,
    settings: Mapping[str, Any] | None = None,
    name: str = "mutual_mask_rcnn",
    **kwargs,
) -> MutualNet:
    """MutualNet for detection and instance segmentation (section 4.3).

    Widths slice the backbone. The neck and the heads are shared by all sub-networks.
    Each sub-network is trained with the ground truth. US-Net's training is
    `train_resolutions=resolutions[:1]`.

    Args:
        num_classes: Number of classes, without the background.
        backbone: `"vgg16"`, `"resnet50"`, `"resnet18"` or `"mobilenet_v2"`.
        width_range: Smallest and largest width multiplier.
        resolutions: Short sides of the images in pixels.
        max_size: Largest long side of images at the largest resolution, an integer in
            pixels. It is scaled in proportion for the other resolutions.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments, `calibrated` included.
        masks: Whether there is a mask head; Faster R-CNN has none.
        depths, filters: Number of blocks and of channels of each stage, by default
            those of the published backbone.
        stem: As for the backbone.
        channels, units: See `tasks.InstanceSegmentation`.
        settings: Fields of `boxes.DetectionSettings` by name.
        **kwargs: Further arguments of `MutualNet`, such as `frozen_bn`.

    Raises:
        ValueError: An argument that cannot work.
    """
    task = _task(num_classes, resolutions, max_size, masks, channels, units, settings)
    _, widest = check_width_range(width_range)
    architecture = _backbone(backbone, depths, filters, stem, max(1.0, widest))
    model = MutualNet(architecture, task, width_range, resolutions, name=name, **kwargs)
    return load_weights_file(model, weights)


def RSMaskRCNN(
    num_classes: int = 80,
    backbone: str = "resnet50",
    resolutions: Sequence[int] = RESOLUTIONS,
    max_size: int = 1000,
    weights: str | None = None,
    masks: bool = True,
    depths: Sequence[int] | None = None,
    filters: Sequence[int] | None = None,
    stem: str = "imagenet",
    channels: int = 256,
    units: int = 1024,
    settings: Mapping[str, Any] | None = None,
    name: str = "rs_mask_rcnn",
    **kwargs,
) -> RSNet:
    """RS-Net for detection and instance segmentation, in no paper.

    Each resolution has its own BatchNormalization in the backbone. Each is trained
    with the ground truth, without an ensemble. With a single resolution, it is an
    ordinary Mask R-CNN.

    Args:
        num_classes, backbone, resolutions, max_size, weights, masks, depths, filters,
            stem, channels, units, settings: As for `MutualMaskRCNN`.
        **kwargs: Further arguments of `RSNet`, such as `frozen_bn`.
    """
    task = _task(num_classes, resolutions, max_size, masks, channels, units, settings)
    architecture = _backbone(backbone, depths, filters, stem)
    model = RSNet(architecture, task, resolutions, name=name, **kwargs)
    return load_weights_file(model, weights)


def _task(
    num_classes, resolutions, max_size, masks, channels, units, settings
) -> InstanceSegmentation:
    largest = check_resolutions(resolutions)[0]
    if check_integer(max_size, "max_size") < largest:
        raise ValueError(
            f"`max_size` must be at least the largest resolution, {largest} pixels. "
            f"Received: max_size={max_size!r}"
        )
    return InstanceSegmentation(
        num_classes,
        masks,
        channels,
        units,
        max_size / largest,
        **_check_settings({} if settings is None else settings),
    )


def _check_settings(settings) -> dict[str, Any]:
    """Returns settings with plain values, or raises a `ValueError`."""
    names = [field.name for field in dataclasses.fields(DetectionSettings)]
    if not isinstance(settings, Mapping) or not set(settings) <= set(names):
        raise ValueError(
            f"`settings` must map some of {names} to their values. "
            f"Received: settings={settings!r}"
        )
    return as_plain(dict(settings))


def _backbone(
    name: str, depths, filters, stem: str, head_width: float = 1.0
) -> Backbone:
    sizes = {}
    for key, value in (("depths", depths), ("filters", filters)):
        if value is None:
            continue
        if not hasattr(value, "__len__"):
            raise ValueError(
                f"`{key}` must be None or have one entry per stage. "
                f"Received: {key}={value!r}"
            )
        sizes[key] = tuple(value)
    if name == "vgg16":
        return VGG(**sizes, stem=stem, name="backbone")
    if name == "resnet50":
        sizes = {"depths": (3, 4, 6, 3), **sizes}
        return ResNet(**sizes, bottleneck=True, stem=stem, name="backbone")
    if name == "resnet18":
        sizes = {"depths": (2, 2, 2, 2), **sizes}
        return ResNet(**sizes, stem=stem, name="backbone")
    if name != "mobilenet_v2":
        raise ValueError(
            f"`backbone` must be one of {BACKBONES}. Received: backbone={name!r}"
        )
    return MobileNetV2(**sizes, stem=stem, head_width=head_width, name="backbone")
