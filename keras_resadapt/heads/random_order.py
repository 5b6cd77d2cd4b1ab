"""The random choice of the boxes of a loss, independent of replicas."""

import keras
from keras import ops

from keras_resadapt.boxes.sampling import Priorities
from keras_resadapt.layers.replicas import rows_of_replica


def random_order(seed: keras.random.SeedGenerator) -> Priorities:
    """Returns priorities by which boxes are chosen at random.

    A number depends on the seed, the index of the box and the image's row in the
    global batch, but not on the number of boxes or replicas.

    Args:
        seed: The seeds of successive draws, the same in all replicas.
    """

    def draw(shape):
        rows, boxes = shape
        first, total = rows_of_replica(rows)
        # Boxes first: the numbers are drawn in this order.
        numbers = keras.random.uniform((boxes, total), seed=seed)
        return ops.transpose(numbers)[first : first + rows]

    return draw
