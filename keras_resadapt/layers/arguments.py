"""Checks and conversions of constructor arguments.

NumPy's integers, floats and arrays become Python's, which configurations can
hold.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np


def as_int(name: str, value: Any, minimum: int = 1) -> int:
    """Returns an integer argument as an `int`.

    Args:
        name: The argument's name, for the error.
        value: An integer of Python or NumPy.
        minimum: The smallest allowed value.

    Raises:
        ValueError: If `value` is not an integer or is below `minimum`.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        integer = operator.index(value)
    except TypeError:
        integer = None
    if integer is None or integer < minimum:
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}. "
            f"Received: {name}={value!r}"
        )
    return integer


def as_pair(name: str, value: Any) -> tuple[int, int]:
    """Returns the values along height and width; one integer means both.

    Raises:
        ValueError: If `value` is neither a positive integer nor two of them.
    """
    values = np.ravel(value).tolist()
    if np.ndim(value) == 0:
        values = values * 2
    if len(values) != 2:
        raise ValueError(
            f"`{name}` must be a positive integer or a pair of them. "
            f"Received: {name}={value!r}"
        )
    height, width = (as_int(name, v) for v in values)
    return height, width


def as_ints(name: str, values: Sequence[int], minimum: int = 1) -> tuple[int, ...]:
    """Returns a sequence of integers as a tuple of `int`."""
    return tuple(as_int(name, value, minimum) for value in values)


def as_share(name: str, value: Any) -> float:
    """Returns a number in [0, 1] as a `float`.

    Raises:
        ValueError: If `value` is outside [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={value!r}")
    return float(value)
