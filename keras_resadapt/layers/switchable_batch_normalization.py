"""One BatchNormalization a resolution, everything else shared."""

import operator
from collections.abc import Sequence

import keras

from keras_resadapt.layers.batch_normalization import (
    BatchNormalization,
    affine,
    normalize,
)


def check_resolutions(resolutions: Sequence[int]) -> tuple[int, ...]:
    """Returns the resolutions, the largest first, or says what is wrong."""
    if hasattr(resolutions, "__index__"):
        resolutions = (resolutions,)
    resolutions = tuple(resolutions)
    if not resolutions:
        raise ValueError(
            "`resolutions` must name at least one resolution in pixels. "
            f"Received: resolutions={resolutions}"
        )
    for resolution in resolutions:
        if not hasattr(resolution, "__index__") or resolution < 1:
            raise ValueError(
                "`resolutions` must be positive integers (pixels). "
                f"Received: {resolution!r} in resolutions={resolutions}"
            )
    resolutions = tuple(map(operator.index, resolutions))  # NumPy's, say
    if len(set(resolutions)) < len(resolutions):
        raise ValueError(
            f"`resolutions` must not repeat. Received: resolutions={resolutions}"
        )
    return tuple(sorted(resolutions, reverse=True))


def trained_index(resolutions: tuple[int, ...], resolution: int) -> int:
    """Which of the trained resolutions one is, or a `ValueError`."""
    if resolution not in resolutions:
        raise ValueError(
            "Only the resolutions that the network has can be trained: "
            f"{resolutions}. Received: resolution={resolution}"
        )
    return resolutions.index(resolution)


def neighbours(
    resolutions: tuple[int, ...], resolution: int, extrapolate: bool
) -> tuple[int, int, float]:
    """Between which trained resolutions another one lies.

    Args:
        resolutions: The trained ones, the largest first.
        resolution: The other one.
        extrapolate: Outside the trained range, give the nearest one twice
            instead of raising an error.

    Returns:
        The index of the next larger, that of the next smaller, and the share
        of the larger in a linear interpolation.
    """
    largest, smallest = resolutions[0], resolutions[-1]
    if not smallest <= resolution <= largest and not extrapolate:
        raise ValueError(
            f"`resolution` must be from {smallest} to {largest}, the "
            f"trained range. Received: resolution={resolution}. Build the "
            "model with `extrapolate=True` to use the nearest trained "
            "resolution's statistics outside it."
        )
    lower = sum(size >= resolution for size in resolutions)
    upper = max(lower - 1, 0)
    lower = min(lower, len(resolutions) - 1)
    if upper == lower:
        return upper, lower, 1.0
    high, low = resolutions[upper], resolutions[lower]
    return upper, lower, (resolution - low) / (high - low)


@keras.saving.register_keras_serializable("keras_resadapt")
class SwitchableBatchNormalization(keras.layers.Layer):
    """Private scale, bias, mean and variance for each input resolution.

    For the s-th resolution (RS-Net, section 3.1, equation 3):
    `y' = gamma_s * (y - mu_s) / sqrt(sigma_s^2 + epsilon) + beta_s`.

    A resolution that was not trained, between two that were, gets the four
    vectors interpolated linearly between its neighbours' (section 4.3), in
    inference only.

    Args:
        resolutions: The trained resolutions of the network's input, in
            pixels (not of this layer's input).
        momentum, epsilon, gamma_initializer: As for `BatchNormalization`.
        extrapolate: Outside the trained range, use the nearest resolution's
            vectors instead of raising an error.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        resolution: The resolution of the network's input, in pixels.
        training: As for `BatchNormalization`.

    Raises:
        ValueError: For a resolution outside the trained range without
            `extrapolate`, and for training at one that the layer has not.

    Example:

    >>> bn = SwitchableBatchNormalization(resolutions=(64, 32))
    >>> y = bn(features, resolution=32, training=True)
    """

    depends_on = ("resolution",)

    def __init__(
        self,
        resolutions: Sequence[int],
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        gamma_initializer="ones",
        extrapolate: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.resolutions = check_resolutions(resolutions)
        self.momentum = momentum
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.extrapolate = extrapolate
        self.branches = [
            BatchNormalization(
                momentum,
                epsilon,
                gamma_initializer,
                name=f"r{resolution}",
                dtype=self.dtype_policy,
            )
            for resolution in self.resolutions
        ]

    def build(self, input_shape):
        for branch in self.branches:
            branch.build(input_shape)

    def call(self, inputs, resolution, training=None):
        if training or resolution in self.resolutions:
            return self._branch(resolution)(inputs, training=training)
        return normalize(inputs, *self.affine(resolution))

    def affine(self, resolution):
        """The scale and offset of each channel in inference."""
        if resolution in self.resolutions:
            return self._branch(resolution).affine()
        return affine(*self._interpolate(resolution), epsilon=self.epsilon)

    def statistics(self, resolution):
        """The running mean and variance of a trained resolution."""
        return self._branch(resolution).statistics()

    def normalize_by_batch(self, inputs, resolution):
        """As `BatchNormalization` does it."""
        return self._branch(resolution).normalize_by_batch(inputs)

    def _branch(self, resolution):
        return self.branches[trained_index(self.resolutions, resolution)]

    def _interpolate(self, resolution):
        """Mean, variance, gamma and beta for an untrained resolution."""
        upper, lower, share = neighbours(self.resolutions, resolution, self.extrapolate)
        upper, lower = self.branches[upper], self.branches[lower]
        return [
            share * getattr(upper, name) + (1 - share) * getattr(lower, name)
            for name in ("moving_mean", "moving_variance", "gamma", "beta")
        ]

    def compute_output_spec(self, inputs, resolution, training=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "resolutions": self.resolutions,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "extrapolate": self.extrapolate,
        }
