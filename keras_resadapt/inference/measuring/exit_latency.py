"""The latency of each exit of a cascade on this machine."""

import numpy as np

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.checks import check_cascade
from keras_resadapt.inference.running.stages import check_resolution, freeze_stages
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.number_checks import check_integer
from keras_resadapt.timing import median_times


def measure_exit_latency(
    model: Cascade,
    batch_size: int = 1,
    repeats: int = 30,
    resolution: int | None = None,
) -> list[float]:
    """Returns the median milliseconds per image for each exit of a cascade.

    Each stage of an `inference.AdaptivePredictor` is timed for a full batch.
    The latency of an exit is the sum of its stage and all earlier stages. If
    only a few images of a batch continue, their latency per image is somewhat
    higher.

    Args:
        model: A cascade, on the TensorFlow backend.
        batch_size: Images per pass.
        repeats: Timed passes, after two untimed ones.
        resolution: Height and width of the images in pixels, by default the
            model's own.

    Raises:
        RuntimeError: On any backend other than TensorFlow.
        TypeError: If `model` is not a cascade.
        ValueError: If an argument is outside its range.
    """
    require_tensorflow("measure_exit_latency")
    check_cascade(model)
    batch_size = check_integer(batch_size, "batch_size")
    check_integer(repeats, "repeats")
    size = check_resolution(model, resolution)
    import tensorflow as tf

    stages = freeze_stages(model, (1.0,) * model.num_exits, size)
    # What each stage takes; a stage stores what the next one takes.
    inputs = {0: [tf.zeros((batch_size, size, size, 3))]}

    def run(exit):
        logits, *inputs[exit + 1] = stages[exit](*inputs[exit])
        logits.numpy()

    times = median_times(
        {exit: lambda exit=exit: run(exit) for exit in range(len(stages))}, repeats
    )
    return (np.cumsum(list(times.values())) / batch_size).tolist()
