"""Validation of the arguments and images of RANet and MSDNet."""

from keras_resadapt.layers.exit_classifier import ExitClassifier

_POSITIVE = (
    "num_blocks",
    "block_step",
    "base",
    "step",
    "channels",
    "growth_rate",
)


def check_multi_scale(*, growth_factors, bottleneck_factors, reduction, **sizes):
    """Raises a `ValueError` that names an invalid argument."""
    for name in _POSITIVE:
        value = sizes.get(name, 1)
        if not hasattr(value, "__index__") or value < 1:
            raise ValueError(
                f"`{name}` must be a positive integer. Received: {name}={value!r}"
            )
    if (
        len(growth_factors) != len(bottleneck_factors)
        or min(*growth_factors, *bottleneck_factors) < 1
    ):
        raise ValueError(
            "`growth_factors` and `bottleneck_factors` must have the same "
            "number of positive entries. Received: "
            f"growth_factors={tuple(growth_factors)}, "
            f"bottleneck_factors={tuple(bottleneck_factors)}"
        )
    if not 0 < reduction <= 1:
        raise ValueError(
            f"`reduction` must be in (0, 1]. Received: reduction={reduction}"
        )


def check_size(size, halvings: int) -> None:
    """Raises a `ValueError` for images too small for the classifiers.

    Args:
        size: Height and width of the images in pixels.
        halvings: How often the network halves height and width before a classifier.
    """
    smallest = (ExitClassifier.MIN_SIZE - 1) * 2**halvings + 1
    if min(size) < smallest:
        raise ValueError(
            f"Images must be at least {smallest} pixels high and wide: the "
            f"network halves them {halvings} times, and its classifiers take "
            f"features of {ExitClassifier.MIN_SIZE} pixels. "
            f"Received: {size[0]} x {size[1]} pixels"
        )
