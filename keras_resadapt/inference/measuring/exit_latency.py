"""What leaving at an exit costs in milliseconds, here and now."""

import statistics
import time

import keras
import numpy as np

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.models.cascade import Cascade


def measure_exit_latency(
    model: Cascade,
    batch_size: int = 1,
    repeats: int = 30,
    resolution: int | None = None,
) -> list[float]:
    """Median milliseconds that an image costs that leaves at each exit.

    Measured is each stage of an `inference.AdaptivePredictor` for a full
    batch; an exit costs the sum of its stage and those before. Where only a
    few images of a batch go on, they cost somewhat more each.

    Args:
        model: A cascade, on the TensorFlow backend.
        batch_size: Images that run together.
        repeats: Timed passes, after two that are not.
        resolution: Height and width of the images, by default the model's.

    Raises:
        RuntimeError: On another backend.
        ValueError: For an argument out of its range.
    """
    require_tensorflow("measure_exit_latency")
    import tensorflow as tf

    from keras_resadapt.inference.running.stages import freeze_stages

    if batch_size < 1 or repeats < 1:
        raise ValueError(
            "`batch_size` and `repeats` must be positive. Received: "
            f"batch_size={batch_size}, repeats={repeats}"
        )
    size = check_resolution(model, resolution)
    stages = freeze_stages(model, (1.0,) * model.num_exits, size)
    images = tf.zeros((batch_size, size, size, 3))
    times = [[] for _ in stages]
    for turn in range(repeats + 2):
        tensors = [images]
        for stage, of_stage in zip(stages, times):
            start = time.perf_counter()
            answer, *tensors = stage(*tensors)
            answer.numpy()
            if turn >= 2:
                of_stage.append(time.perf_counter() - start)
    medians = [statistics.median(of_stage) for of_stage in times]
    return (1e3 / batch_size * np.cumsum(medians)).tolist()


def check_resolution(model: Cascade, resolution: int | None) -> int:
    """The resolution, or the model's own; a `ValueError` if the model cannot
    run there."""
    if resolution is None:
        return model.resolution
    if not isinstance(resolution, int) or resolution < 1:
        raise ValueError(
            "`resolution` must be a positive integer (pixels). "
            f"Received: resolution={resolution!r}"
        )
    model.check_images(keras.KerasTensor((1, resolution, resolution, 3)))
    return resolution
