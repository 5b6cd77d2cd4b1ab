"""The names of the arrays of an RS-Net in PyTorch checkpoints."""

from collections.abc import Iterator, Mapping

import keras
import numpy as np

from keras_resadapt.backbones import MobileNetV2, ResNet
from keras_resadapt.convert.layers import Target, kernel_targets, norm_targets
from keras_resadapt.convert.refinenet import head_targets
from keras_resadapt.models.rsnet import RSNet


def rsnet_targets(
    model: RSNet, state_dict: Mapping[str, np.ndarray]
) -> dict[str, Target]:
    """Returns the checkpoint keys with the variables that they fill.

    A checkpoint of the authors has private BatchNormalization, `bn_0`, `bn_1`, ...,
    with the largest resolution first. A checkpoint without it is torchvision's.

    Args:
        model: The model to fill.
        state_dict: The arrays of the checkpoint by key.

    Raises:
        TypeError: If no checkpoints exist for the backbone.
    """
    private = any(".bn_0." in key for key in state_dict)
    if getattr(model.backbone, "pre_activation", False):
        raise TypeError(
            "`model` must have a ResNet without pre-activation, for which "
            "checkpoints exist. Received: a backbone with pre_activation=True"
        )
    if isinstance(model.backbone, ResNet):
        names = resnet_names(model)
    elif isinstance(model.backbone, MobileNetV2):
        names = _mobilenet_v2_names(model, private)
    else:
        raise TypeError(
            "`model` must have a ResNet or MobileNetV2 backbone. "
            f"Received: {type(model.backbone).__name__}"
        )
    targets = {}
    for name, layer in names:
        if hasattr(layer, "branches"):
            targets.update(_norm_targets(name, layer, private))
            continue
        targets |= kernel_targets(f"{name}.module" if private else name, layer)
    targets |= head_targets(model.head, state_dict, _classifier_name(model, private))
    if "alpha" in state_dict and len(model.resolutions) > 1 and "alpha" not in targets:
        targets["alpha"] = ([model.alpha], np.asarray)
    return targets


def _classifier_name(model, private) -> str:
    if isinstance(model.backbone, ResNet):
        return "fc.module" if private else "fc"
    return "classifier.module" if private else "classifier.1"


def _norm_targets(name, layer, private) -> dict[str, Target]:
    if not private:
        return norm_targets(name, layer.branches)
    targets = {}
    for i, branch in enumerate(layer.branches):
        targets |= norm_targets(f"{name}.bn_{i}", [branch])
    return targets


def resnet_names(model) -> Iterator[tuple[str, keras.layers.Layer]]:
    (stem,), *stages = model.backbone.stages
    yield "conv1", stem.conv1
    yield "bn1", stem.bn1
    for i, stage in enumerate(stages, 1):
        for j, block in enumerate(stage):
            prefix = f"layer{i}.{j}"
            for k, (conv, bn) in enumerate(zip(block.convs, block.bns), 1):
                yield f"{prefix}.conv{k}", conv
                yield f"{prefix}.bn{k}", bn
            if block.shortcut is not None:
                yield f"{prefix}.downsample.0", block.shortcut
                yield f"{prefix}.downsample.1", block.shortcut_bn


def _mobilenet_v2_names(model, private) -> Iterator[tuple[str, keras.layers.Layer]]:
    (stem,), *stages, (head,) = model.backbone.stages
    yield "features.0.0", stem.conv
    yield "features.0.1", stem.bn
    blocks = [block for stage in stages for block in stage]
    for i, block in enumerate(blocks, 1):
        pairs = [
            (block.depthwise, block.depthwise_bn),
            (block.project, block.project_bn),
        ]
        if block.expand is not None:
            pairs.insert(0, (block.expand, block.expand_bn))
        for j, (conv, bn) in enumerate(pairs):
            if private:  # conv, BN and ReLU in one flat sequence
                conv_name, bn_name = f"{3 * j}", f"{3 * j + 1}"
            elif j < len(pairs) - 1:  # nested conv, BN, ReLU
                conv_name, bn_name = f"{j}.0", f"{j}.1"
            else:  # the linear projection
                conv_name, bn_name = f"{j}", f"{j + 1}"
            yield f"features.{i}.conv.{conv_name}", conv
            yield f"features.{i}.conv.{bn_name}", bn
    prefix = "conv" if private else f"features.{len(blocks) + 1}"
    yield f"{prefix}.0", head.conv
    yield f"{prefix}.1", head.bn
