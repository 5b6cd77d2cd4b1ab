"""The exits of a cascade as separate functions of tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_resadapt.inference.running.frozen import freeze
from keras_resadapt.models.cascade import Cascade, CascadeState
from keras_resadapt.number_checks import check_integer
from keras_resadapt.points.operating_point import OperatingPoint


def cascade_stages(
    model: Cascade,
    temperatures: Sequence[float],
    point: OperatingPoint = OperatingPoint(),
) -> list[Callable]:
    """Returns one function per exit.

    The first function takes images. Each other function takes the features
    that the previous function returned. A function returns a list: the logits
    divided by the temperature of the exit, of shape (batch, classes), followed
    by the features for the next function. The functions must be traced in
    order.

    Args:
        model: The cascade.
        temperatures: A number per exit.
        point: The operating point, for its axes other than the exit.
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
    """Returns the functions of `cascade_stages`, compiled with constant weights.

    Args:
        model: The cascade.
        temperatures: A number per exit, which divides its logits.
        resolution: Height and width of the images in pixels.
    """
    import tensorflow as tf

    specs = [tf.TensorSpec((None, resolution, resolution, 3), tf.float32)]
    stages: list[Any] = []
    for stage in cascade_stages(model, temperatures):
        stages.append(freeze(stage, specs))
        specs = [
            tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in stages[-1].outputs[1:]
        ]
    return stages


def check_resolution(model: Cascade, resolution: int | None) -> int:
    """Validates the resolution at which a cascade is to run.

    Args:
        model: The cascade.
        resolution: Height and width in pixels; None for the model's own.

    Returns:
        The resolution.

    Raises:
        ValueError: If the resolution is not a positive integer, or the model
            cannot process images of that size.
    """
    if resolution is None:
        return model.resolution
    resolution = check_integer(resolution, "resolution")
    model.check_images(keras.KerasTensor((1, resolution, resolution, 3)))
    return resolution
