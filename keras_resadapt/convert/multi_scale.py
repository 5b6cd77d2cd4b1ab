"""The names of the arrays of RANet and MSDNet in the authors' checkpoints."""

from keras_resadapt.convert.layers import (
    Target,
    conv_block_targets,
    kernel_targets,
)
from keras_resadapt.layers.fusion_block import FusionBlock
from keras_resadapt.layers.multi_scale_layer import MultiScaleLayer
from keras_resadapt.models.msdnet import MSDNet
from keras_resadapt.models.ranet import RANet


def ranet_targets(model: RANet, state_dict=None) -> dict[str, Target]:
    """Returns the checkpoint keys of a RANet with the variables that they fill."""
    targets = {
        **_base_targets("FirstLayer", model),
        **_classifier_targets(model),
    }
    for flow, blocks in enumerate(model.sub_networks):
        for i, block in enumerate(blocks):
            name = f"scale_flows.{flow}.{i}"
            for j, conv in enumerate(block.convs):
                targets |= _bottleneck_targets(f"{name}.layers.{j}.conv_normal", conv)
            if isinstance(block, FusionBlock):
                for j, up in enumerate(block.ups):
                    targets |= _bottleneck_targets(f"{name}.layers.{j}.conv_up", up)
                targets |= conv_block_targets(f"{name}.conv_last.net", block.last)
            if block.transition is not None:
                targets |= conv_block_targets(f"{name}.trans.net", block.transition)
    return targets


def msdnet_targets(model: MSDNet, state_dict=None) -> dict[str, Target]:
    """Returns the checkpoint keys of an MSDNet with the variables that they fill."""
    targets = {
        **_base_targets("blocks.0.0", model),
        **_classifier_targets(model),
    }
    for i, block in enumerate(model.blocks):
        # The authors' first block begins with the base features.
        for j, layer in enumerate(block, 1 if i == 0 else 0):
            name = f"blocks.{i}.{j}"
            if not isinstance(layer, MultiScaleLayer):
                for k, transition in enumerate(layer):
                    targets |= conv_block_targets(f"{name}.m.{k}.net", transition)
                continue
            for k, (down, conv) in enumerate(zip(layer.downs, layer.convs)):
                prefix = f"{name}.layers.{k}"
                targets |= _bottleneck_targets(f"{prefix}.conv_normal", conv)
                if down is not None:
                    targets |= _bottleneck_targets(f"{prefix}.conv_down", down)
    return targets


def _base_targets(name, model) -> dict[str, Target]:
    targets = {}
    for i, conv in enumerate(model.base_features.convs):
        # The first layer of the ImageNet stem is a plain sequence. The other layers are
        # modules around one.
        plain = i == 0 and model.stem == "imagenet"
        prefix = f"{name}.layers.{i}" if plain else f"{name}.layers.{i}.net"
        targets |= conv_block_targets(prefix, conv)
    return targets


def _classifier_targets(model) -> dict[str, Target]:
    targets = {}
    for k, classifier in enumerate(model.classifiers):
        for i, conv in enumerate(classifier.convs):
            targets |= conv_block_targets(f"classifier.{k}.m.{i}.net", conv)
        targets |= kernel_targets(f"classifier.{k}.linear", classifier.dense)
    return targets


def _bottleneck_targets(name, block) -> dict[str, Target]:
    return {
        **conv_block_targets(f"{name}.net", block.reduce, 0),
        **conv_block_targets(f"{name}.net", block.conv, 3),
    }
