"""The names of the arrays of RefineNet in DrSleep's checkpoints."""

from collections.abc import Iterator, Mapping

import numpy as np

from keras_resadapt.convert.layers import Target, kernel_targets
from keras_resadapt.heads import LightWeightRefineNet, RefineNet
from keras_resadapt.heads.classifier import ClassifierHead

# A key that a checkpoint of each decoder has
_MARKS = {
    RefineNet: "adapt_stage1_b.0.1_conv.weight",
    LightWeightRefineNet: "mflow_conv_g1_pool.0.1_outvar_dimred.weight",
}


def head_targets(
    head, state_dict: Mapping[str, np.ndarray], classifier: str
) -> dict[str, Target]:
    """Returns the keys of a head with the variables that they fill.

    The classifier of a checkpoint fills nothing in a network of another task, whose
    head stays as it is.

    Args:
        head: The head of the network.
        state_dict: The arrays of the checkpoint by key.
        classifier: Name of the dense layer in a checkpoint of a classifier.

    Raises:
        ValueError: The checkpoint has another decoder than the network.
    """
    decoder = checkpoint_decoder(state_dict)
    if isinstance(head, ClassifierHead) and decoder is None:
        return kernel_targets(classifier, head.classifier)
    if decoder is None:  # of a classifier: a warm start of the backbone
        others = [f"{classifier}.weight", f"{classifier}.bias", "alpha"]
        return {key: ([], np.asarray) for key in others if key in state_dict}
    if type(head) is not decoder:
        raise ValueError(
            "The checkpoint must have the decoder of the model, "
            f"{type(head).__name__}. Received: a checkpoint of {decoder.__name__}"
        )
    targets = {}
    for name, layer in _decoder_names(head):
        targets |= kernel_targets(name, layer)
    return targets


def checkpoint_decoder(state_dict) -> type | None:
    """Returns the class of the decoder of a checkpoint; None for a classifier."""
    for decoder, key in _MARKS.items():
        if key in state_dict:
            return decoder
    return None


def _decoder_names(head: RefineNet) -> Iterator[tuple]:
    """Yields the convolutions of a decoder with their names."""
    for i, level in enumerate(head.levels, 1):
        yield f"p_ims1d2_outl{i}_dimred", level.reduce
        yield from _unit_names(f"adapt_stage{i}_b", level.units)
        if level.fuse is not None:
            yield f"adapt_stage{i}_b2_joint_varout_dimred", level.fuse
        for j, conv in enumerate(level.pooling.convs, 1):
            yield f"mflow_conv_g{i}_pool.0.{j}_outvar_dimred", conv
        yield from _unit_names(f"mflow_conv_g{i}_b", level.out_units)
        if level.out_conv is not None:
            yield f"mflow_conv_g{i}_b3_joint_varout_dimred", level.out_conv
    yield "clf_conv", head.classifier


def _unit_names(name: str, units) -> Iterator[tuple]:
    for i, unit in enumerate(units, 1):
        yield f"{name}.0.{i}_conv", unit.conv1
        yield f"{name}.0.{i}_conv_relu_varout_dimred", unit.conv2
