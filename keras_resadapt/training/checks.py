"""Validation shared by optimizers, schedules and recipes."""

import math


def check_number(name: str, value: float, lowest: float = 0, highest=math.inf) -> None:
    """Raises a `ValueError` unless a number is finite and in a range.

    Args:
        name: The name of the argument, for the message.
        value: The number.
        lowest, highest: The range, both ends included.
    """
    if not lowest <= value <= highest or math.isinf(value):
        rule = (
            f"a finite number of at least {lowest}"
            if math.isinf(highest)
            else f"in [{lowest}, {highest}]"
        )
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value}")
