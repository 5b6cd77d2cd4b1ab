"""Timing functions against one another."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping

from keras_resadapt.number_checks import check_integer


def time_in_turns(
    functions: Mapping[Hashable, Callable[[], object]],
    repeats: int = 30,
    warmup: int = 2,
) -> dict[Hashable, list[float]]:
    """Returns the milliseconds of every call of several functions.

    The functions take turns, so that a machine that slows down slows all of
    them equally. Each function must wait until its result has been computed,
    for example by converting it to a NumPy array.

    Args:
        functions: Functions without arguments, by name.
        repeats: The number of timed calls of each function, at least 1.
        warmup: The number of calls of each function before the first timed
            one.

    Returns:
        For each name, a list of `repeats` durations in milliseconds. The
        durations at the same index belong to the same turn.

    Raises:
        ValueError: If `repeats` is not a positive integer, or `warmup` not
            an integer from 0.
    """
    repeats = check_integer(repeats, "repeats")
    warmup = check_integer(warmup, "warmup", minimum=0)
    times = {name: [] for name in functions}
    for turn in range(-warmup, repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            duration = 1e3 * (time.perf_counter() - start)
            if turn >= 0:
                times[name].append(duration)
    return times


def median_times(
    functions: Mapping[Hashable, Callable[[], object]],
    repeats: int = 30,
    warmup: int = 2,
) -> dict[Hashable, float]:
    """Returns the median milliseconds of several functions.

    Args:
        functions, repeats, warmup: As for `time_in_turns`.
    """
    times = time_in_turns(functions, repeats, warmup)
    return {name: statistics.median(values) for name, values in times.items()}
