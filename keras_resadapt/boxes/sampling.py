"""The choice of positive and negative boxes for a loss."""

from collections.abc import Callable
from typing import Any

from keras import ops

# A function from a shape, (batch, boxes), to numbers in [0, 1]: boxes with higher
# numbers are chosen first.
Priorities = Callable[[tuple], Any]


def first_by_index(shape: tuple) -> Any:
    """Returns priorities by which the first boxes are chosen.

    Args:
        shape: (batch, boxes).
    """
    count = shape[1]
    order = ops.cast(ops.arange(count), "float32") / ops.cast(count, "float32")
    return ops.broadcast_to(1.0 - order, shape)


def sample(
    labels: Any, count: int, positive_fraction: float, priorities: Priorities
) -> tuple[Any, Any, Any]:
    """Chooses positive boxes, and fills up with negative ones.

    Args:
        labels: 1 for positive, 0 for negative and -1 for other boxes, of shape
            (batch, boxes).
        count: Number of boxes to choose per image.
        positive_fraction: Largest share of positive boxes among `count`.
        priorities: Which boxes are chosen first.

    Returns:
        Indices, labels and validity of the chosen boxes, of shape (batch, count):
        positive boxes first, then negative ones, then unused entries, whose index is
        that of some box.
    """
    keys = ops.cast(priorities(ops.shape(labels)), "float32")
    # So that there are at least `count` entries
    unused = ops.full((ops.shape(labels)[0], count), -1.0)
    positive_keys = ops.where(labels == 1, keys, -1.0)
    most = max(int(count * positive_fraction), 1)
    top, _ = ops.top_k(ops.concatenate([positive_keys, unused], axis=1), most)
    chosen = (labels == 1) & (keys >= top[:, -1:])
    if int(count * positive_fraction) == 0:
        chosen = ops.zeros_like(chosen)
    # Positive boxes above 2, negative ones from 0 to 1
    keys = ops.where(chosen, keys + 2.0, ops.where(labels == 0, keys, -1.0))
    values, indices = ops.top_k(ops.concatenate([keys, unused], axis=1), count)
    indices = ops.minimum(indices, ops.shape(labels)[1] - 1)
    return indices, ops.cast(values >= 2, "int32"), values >= 0
