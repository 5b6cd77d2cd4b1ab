"""Checks of arguments that several functions of this folder share."""

from collections.abc import Sequence

from keras_resadapt.number_checks import check_integer


def check_range(
    argument: str, value: tuple[float, float], highest: float = float("inf")
) -> None:
    """Raises a `ValueError` unless `value` is (lowest, highest), both positive."""
    if len(value) != 2 or not 0 < value[0] <= value[1] <= highest:
        limit = "" if highest == float("inf") else f" and at most {highest:g}"
        raise ValueError(
            f"`{argument}` must be (lowest, highest), both greater than 0{limit}. "
            f"Received: {argument}={value!r}"
        )


def check_resolutions(
    resolutions: int | Sequence[int],
) -> tuple[tuple[int, ...], bool]:
    """Checks one resolution or a sequence of them.

    Args:
        resolutions: A positive integer, or positive integers with the largest first.

    Returns:
        The resolutions as a tuple, and whether a single integer was given.

    Raises:
        ValueError: If `resolutions` is anything else.
    """
    single = hasattr(resolutions, "__index__")
    if not single and (isinstance(resolutions, str) or not _is_sequence(resolutions)):
        raise ValueError(
            "`resolutions` must be an integer or a sequence of integers. "
            f"Received: resolutions={resolutions!r}"
        )
    sizes = (resolutions,) if single else tuple(resolutions)
    for size in sizes:
        check_integer(size, "resolutions", unit="pixels")
    if list(sizes) != sorted(sizes, reverse=True):
        raise ValueError(
            "`resolutions` must have the largest first. "
            f"Received: resolutions={resolutions!r}"
        )
    return tuple(int(size) for size in sizes), single


def check_crop_fraction(crop_fraction: float) -> None:
    """Raises a `ValueError` unless `crop_fraction` is in (0, 1]."""
    if not 0.0 < crop_fraction <= 1.0:
        raise ValueError(
            "`crop_fraction` must be greater than 0 and at most 1. "
            f"Received: crop_fraction={crop_fraction!r}"
        )


def check_color_jitter(color_jitter: float) -> None:
    """Raises a `ValueError` unless `color_jitter` is in [0, 1)."""
    if not 0 <= color_jitter < 1:
        raise ValueError(
            "`color_jitter` must be at least 0 and less than 1. "
            f"Received: color_jitter={color_jitter!r}"
        )


def check_broken_fraction(max_broken_fraction: float) -> None:
    """Raises a `ValueError` unless `max_broken_fraction` is in [0, 0.5]."""
    if not 0.0 <= max_broken_fraction <= 0.5:
        raise ValueError(
            "`max_broken_fraction` must be from 0 to 0.5. "
            f"Received: max_broken_fraction={max_broken_fraction!r}"
        )


def check_shard(shard: tuple[int, int], batch_size: int) -> None:
    """Raises a `ValueError` unless `shard` is (index, count) with equal parts.

    Args:
        shard: The number of a worker, from 0 on, and the number of workers.
        batch_size: Images per global batch, which the workers divide.
    """
    if not _is_sequence(shard) or len(shard) != 2 or not 0 <= shard[0] < shard[1]:
        raise ValueError(
            "`shard` must be (index, count) with 0 <= index < count. "
            f"Received: shard={shard!r}"
        )
    if batch_size % shard[1]:
        raise ValueError(
            "`batch_size` must be divisible by the number of shards. "
            f"Received: batch_size={batch_size}, shard={shard!r}"
        )


def _is_sequence(value) -> bool:
    return (
        hasattr(value, "__len__") and hasattr(value, "__getitem__") and len(value) > 0
    )
