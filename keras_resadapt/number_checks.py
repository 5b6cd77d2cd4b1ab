"""Validation of arguments that are numbers."""

import math
import numbers
import operator
from typing import Any

import numpy as np


def check_integer(value: Any, argument: str, minimum: int = 1, unit: str = "") -> int:
    """Validates an integer argument.

    Args:
        value: An integer of Python or NumPy.
        argument: The name of the argument, for the error message.
        minimum: The smallest valid value.
        unit: The unit of the value, for the error message.

    Returns:
        The value as a Python integer.

    Raises:
        ValueError: If the value is not an integer or is below the minimum.
    """
    if (
        isinstance(value, (bool, np.bool_))
        or not hasattr(value, "__index__")
        or getattr(value, "ndim", 0)
        or operator.index(value) < minimum
    ):
        kind = (
            "a positive integer"
            if minimum == 1
            else f"an integer of at least {minimum}"
        )
        if unit:
            kind += f" ({unit})"
        raise ValueError(f"`{argument}` must be {kind}. Received: {argument}={value!r}")
    return operator.index(value)


def check_number(
    value: Any, argument: str, minimum: float = -math.inf, maximum: float = math.inf
) -> float:
    """Validates a finite real number.

    Args:
        value: A number of Python or NumPy; not a boolean.
        argument: The name of the argument, for the error message.
        minimum, maximum: The smallest and the largest valid value.

    Returns:
        The value as a Python float.

    Raises:
        ValueError: If the value is not a finite number in the range.
    """
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        try:
            number = float(value)
        except OverflowError:  # an integer with hundreds of digits
            number = math.inf
    if not (math.isfinite(number) and minimum <= number <= maximum):
        if maximum < math.inf:
            kind = f"a number in [{minimum:g}, {maximum:g}]"
        elif minimum > -math.inf:
            kind = f"a finite number of at least {minimum:g}"
        else:
            kind = "a finite number"
        raise ValueError(f"`{argument}` must be {kind}. Received: {argument}={value!r}")
    return number
