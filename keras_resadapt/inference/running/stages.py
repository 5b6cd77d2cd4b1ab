"""A cascade cut into functions of tensors, one an exit."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_resadapt.inference.running.frozen import freeze
from keras_resadapt.models.cascade import Cascade, CascadeState
from keras_resadapt.points.operating_point import OperatingPoint


def cascade_stages(
    model: Cascade,
    temperatures: Sequence[float],
    point: OperatingPoint = OperatingPoint(),
) -> list[Callable]:
    """A function an exit.

    The first takes images, the others the features that the one before
    returned. Each returns a list: the logits divided by the exit's
    temperature, of shape (batch, classes), followed by the features for the
    next. They are to be traced in their order.
    """
    structures = {}

    def make(exit):
        def stage(*tensors):
            if exit == 0:
                state = model.start(*tensors, point)
            else:
                features = keras.tree.pack_sequence_as(structures[exit], tensors)
                state = CascadeState(model, exit, features, point)
            logits, state = model.advance(state)
            outputs = [logits / temperatures[exit]]
            if state.exit < model.num_exits:
                structures[state.exit] = keras.tree.map_structure(
                    lambda x: 0, state.features
                )
                outputs += keras.tree.flatten(state.features)
            return outputs

        return stage

    return [make(exit) for exit in range(model.num_exits)]


def freeze_stages(
    model: Cascade, temperatures: Sequence[float], resolution: int
) -> list[Callable]:
    """The same functions, compiled with the weights as constants.

    Args:
        model: The cascade.
        temperatures: A number an exit, which divides its logits.
        resolution: Height and width of the images.
    """
    size = resolution
    specs = [tf.TensorSpec((None, size, size, 3), tf.float32)]
    stages = []
    for stage in cascade_stages(model, temperatures):
        stages.append(freeze(stage, specs))
        specs = [
            tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in stages[-1].outputs[1:]
        ]
    return stages
