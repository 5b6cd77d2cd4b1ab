"""The names of the arrays of a MutualNet in PyTorch checkpoints."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from keras_resadapt.backbones import MobileNetV1, MobileNetV2, ResNet
from keras_resadapt.convert.layers import Target, kernel_targets, norm_targets
from keras_resadapt.convert.refinenet import head_targets
from keras_resadapt.models.mutualnet import MutualNet


def mutualnet_targets(
    model: MutualNet, state_dict: Mapping[str, np.ndarray]
) -> dict[str, Target]:
    """Returns the checkpoint keys with the variables that they fill.

    The authors keep running statistics for a list of widths, `bn.0`, `bn.1`, ...,
    with the largest width last, over all resolutions that were drawn. The largest
    width runs at the largest resolution only, so that its statistics are those of
    the full network. The other statistics belong to no single operating point and
    are not used.

    Args:
        model: The model to fill.
        state_dict: The arrays of the checkpoint by key.

    Raises:
        TypeError: If no checkpoints exist for the backbone.
    """
    pairs = {
        MobileNetV1: _mobilenet_v1,
        MobileNetV2: _mobilenet_v2,
        ResNet: _resnet,
    }
    if type(model.backbone) not in pairs:
        raise TypeError(
            "`model` must have a MobileNetV1, MobileNetV2 or ResNet backbone. "
            f"Received: {type(model.backbone).__name__}"
        )
    targets = {}
    for conv_name, conv, bn_name, bn in pairs[type(model.backbone)](model):
        targets |= kernel_targets(conv_name, conv)
        targets |= _norm_targets(bn_name, bn, state_dict)
    return targets | head_targets(model.head, state_dict, "classifier.0")


def _norm_targets(name, norm, state_dict) -> dict[str, Target]:
    targets = norm_targets(name, [norm])
    pattern = re.compile(rf"{re.escape(name)}\.bn\.(\d+)\.")
    places = {int(found[1]) for key in state_dict if (found := pattern.match(key))}
    if not places:  # an ordinary normalization
        return targets
    for vector in ("running_mean", "running_var"):
        full, to_keras = targets.pop(f"{name}.{vector}")
        for place in places:
            variables = full if place == max(places) else []
            targets[f"{name}.bn.{place}.{vector}"] = (variables, to_keras)
    return targets


def _sequence(prefix, layers) -> Iterator[tuple]:
    """Yields convolutions with the normalization after each of them.

    An activation takes the third place.
    """
    for i, (conv, bn) in enumerate(layers):
        yield f"{prefix}.{3 * i}", conv, f"{prefix}.{3 * i + 1}", bn


def _mobilenet_v1(model) -> Iterator[tuple]:
    (stem,), *stages = model.backbone.stages
    yield from _sequence("features.0", [(stem.conv, stem.bn)])
    blocks = [block for stage in stages for block in stage]
    for i, block in enumerate(blocks, 1):
        yield from _sequence(
            f"features.{i}.body",
            [
                (block.depthwise, block.depthwise_bn),
                (block.pointwise.conv, block.pointwise.bn),
            ],
        )


def _mobilenet_v2(model) -> Iterator[tuple]:
    (stem,), *stages, (head,) = model.backbone.stages
    yield from _sequence("features.0", [(stem.conv, stem.bn)])
    blocks = [block for stage in stages for block in stage]
    for i, block in enumerate(blocks, 1):
        layers = [
            (block.depthwise, block.depthwise_bn),
            (block.project, block.project_bn),
        ]
        if block.expand is not None:
            layers.insert(0, (block.expand, block.expand_bn))
        yield from _sequence(f"features.{i}.body", layers)
    yield from _sequence(f"features.{len(blocks) + 1}", [(head.conv, head.bn)])


def _resnet(model) -> Iterator[tuple]:
    (stem,), *stages = model.backbone.stages
    yield from _sequence("features.0", [(stem.conv1, stem.bn1)])
    blocks = [block for stage in stages for block in stage]
    for i, block in enumerate(blocks, 1):
        prefix = f"features.{i}"
        yield from _sequence(f"{prefix}.body", zip(block.convs, block.bns))
        if block.shortcut is not None:
            yield from _sequence(
                f"{prefix}.shortcut", [(block.shortcut, block.shortcut_bn)]
            )
