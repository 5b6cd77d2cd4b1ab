"""Levels that are sums of the numbers of a basis (LQ-Nets, section 3)."""

import itertools

import numpy as np
from keras import ops

from keras_resadapt.layers.replicas import num_replicas, sum_over_replicas

# Added to the diagonal of the least squares, so that they have a solution
RIDGE = 1e-4


def codes(bits: int, signed: bool) -> np.ndarray:
    """Returns all codes, an array of shape (2^bits, bits).

    Args:
        bits: Length of a code.
        signed: Whether its digits are -1 and 1 instead of 0 and 1.
    """
    digits = (-1.0, 1.0) if signed else (0.0, 1.0)
    return np.array(list(itertools.product(digits, repeat=bits)), "float32")


def sorted_levels(basis, code_table: np.ndarray):
    """Returns the levels of a basis, the smallest first, and their codes.

    Args:
        basis: Tensor of shape (bits, channels).
        code_table: All codes, as from `codes`.

    Returns:
        The levels, of shape (2^bits, channels), and their codes, of shape
        (2^bits, channels, bits).
    """
    table = ops.convert_to_tensor(code_table)
    order = ops.argsort(ops.matmul(table, basis), axis=0)
    code_of_level = ops.take(table, order, axis=0)
    return ops.sum(code_of_level * ops.transpose(basis), -1), code_of_level


def least_squares(code_of_level, counts, sums):
    """Returns the basis that fits values with given codes best.

    It is `(B^T B + ridge)^-1 B^T x` for values x with the codes B (LQ-Nets,
    section 3.2), computed from the counts and sums of the values at each level.

    Args:
        code_of_level: Tensor of shape (levels, channels, bits).
        counts: Number of values at each level, of shape (levels, channels).
        sums: Sum of the values at each level, of shape (levels, channels).

    Returns:
        The basis, of shape (bits, channels).
    """
    of_channel = ops.transpose(code_of_level, (1, 2, 0))
    weighted = of_channel * ops.transpose(counts)[:, None]
    gram = ops.matmul(weighted, ops.transpose(of_channel, (0, 2, 1)))
    target = ops.matmul(of_channel, ops.transpose(sums)[..., None])
    gram = gram + RIDGE * np.eye(gram.shape[-1], dtype="float32")
    return ops.transpose(ops.solve(gram, target)[..., 0])


def round_to_levels(inputs, levels):
    """Returns the level nearest to each value.

    Thresholds are midway between neighbouring levels. A value above a threshold
    is rounded up.

    Args:
        inputs: Tensor with the channels in the last axis, or of any shape for
            one channel.
        levels: Tensor of shape (levels, channels), the smallest first.

    Returns:
        The rounded values, and a list with one tensor per threshold: 1 where a
        value is above it, else 0.
    """
    lower, upper = levels[:-1], levels[1:]
    outputs, above = levels[0], []
    for threshold, step in zip(
        ops.unstack((lower + upper) / 2), ops.unstack(upper - lower)
    ):
        above.append(ops.cast(inputs > threshold, inputs.dtype))
        outputs = outputs + step * above[-1]
    return outputs, above


def level_sums(inputs, above, axes):
    """Returns the number of values at each level, and their sum.

    Under `tf.distribute`, they are those of all replicas.

    Args:
        inputs: Tensor of values.
        above: The list returned by `round_to_levels`.
        axes: All axes but the channels; None for one channel.

    Returns:
        The counts and the sums, of shape (levels, channels).
    """
    masks = [ops.ones_like(inputs), *above]

    def each_level(values):
        over = ops.stack([ops.sum(x, axes) for x in values])
        over = ops.reshape(over, (len(values), -1))
        if num_replicas() > 1:
            over = sum_over_replicas(over)
        # Values above a threshold include those above the next threshold.
        over_next = ops.concatenate([over[1:], ops.zeros_like(over[:1])])
        return over - over_next

    return each_level(masks), each_level([inputs * mask for mask in masks])
