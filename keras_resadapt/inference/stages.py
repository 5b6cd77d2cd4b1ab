"""A cascade cut into functions, one an exit."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_resadapt.inference.frozen import freeze
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.cascade import CascadeState
from keras_resadapt.operating_point import OperatingPoint


def freeze_stages(
    model: Cascade, temperatures: Sequence[float], resolution: int
) -> list[Callable]:
    """Compiles each exit, with the weights as constants.

    Args:
        model: The cascade.
        temperatures: A number an exit, which divides its logits.
        resolution: Height and width of the images.

    Returns:
        A function an exit. The first takes images, the others the features
        that the one before returned. Each returns a list: the probabilities,
        followed by the features for the next.
    """
    size = resolution
    specs = [tf.TensorSpec((None, size, size, 3), tf.float32)]
    structure, stages = None, []
    for exit, temperature in enumerate(temperatures):
        traced = []

        def stage(*tensors):
            if exit == 0:
                state = model.start(*tensors)
            else:
                state = CascadeState(
                    model,
                    exit,
                    keras.tree.pack_sequence_as(structure, tensors),
                    OperatingPoint(),
                )
            logits, state = model.advance(state)
            traced[:] = [state.features]
            outputs = [tf.nn.softmax(logits / temperature)]
            if state.exit < model.num_exits:
                outputs += keras.tree.flatten(state.features)
            return outputs

        stages.append(freeze(stage, specs))
        (structure,) = traced
        specs = [
            tf.TensorSpec((None, *x.shape[1:]), x.dtype)
            for x in keras.tree.flatten(structure)
        ]
    return stages
