"""Checks and conversions of constructor arguments.

NumPy's integers, floats and arrays become Python's, which configurations can
hold.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_resadapt.number_checks import check_integer


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
    height, width = (check_integer(v, name) for v in values)
    return height, width


def as_share(name: str, value: Any) -> float:
    """Returns a number in [0, 1] as a `float`.

    Raises:
        ValueError: If `value` is outside [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={value!r}")
    return float(value)


def as_plain(value: Any) -> Any:
    """Returns a value in which NumPy's numbers and arrays are Python's.

    Args:
        value: Anything; lists, tuples and dicts are searched.
    """
    if isinstance(value, np.ndarray | np.generic):
        return as_plain(value.tolist())
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(as_plain, value))
    if type(value) is dict:
        return {key: as_plain(entry) for key, entry in value.items()}
    return value


def with_plain_arguments(init: Callable) -> Callable:
    """Wraps a constructor so that it gets Python's numbers instead of NumPy's."""

    @functools.wraps(init)
    def plain_init(self, *args, **kwargs):
        return init(self, *map(as_plain, args), **as_plain(kwargs))

    # Keras reads the signature of constructors.
    plain_init.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]
    return plain_init
