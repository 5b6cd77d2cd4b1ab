"""One BatchNormalization per resolution, with everything else shared."""

import operator
from collections.abc import Sequence

import keras
import numpy as np

from keras_resadapt.layers.arguments import as_share
from keras_resadapt.layers.batch_normalization import (
    BatchNormalization,
    affine,
    normalize,
)


def check_resolutions(resolutions: Sequence[int] | int) -> tuple[int, ...]:
    """Returns the resolutions as integers, the largest first.

    Args:
        resolutions: Resolutions in pixels, or a single one.

    Raises:
        ValueError: If they are not positive integers, or none, or if some of them
            repeat. All of them can be equal (RS-Net, table 6, "Single-resolution").
    """
    values = [resolutions] if np.ndim(resolutions) == 0 else list(resolutions)
    if not values:
        raise ValueError(
            "`resolutions` must contain at least one resolution in pixels. "
            f"Received: resolutions={resolutions}"
        )
    for value in values:
        if not hasattr(value, "__index__") or value < 1:
            raise ValueError(
                "`resolutions` must be positive integers (pixels). "
                f"Received: {value!r} in resolutions={resolutions}"
            )
    values = [operator.index(value) for value in values]
    if len(values) > len(set(values)) > 1:
        raise ValueError(
            "`resolutions` must not repeat, unless all are equal. "
            f"Received: resolutions={resolutions}"
        )
    return tuple(sorted(values, reverse=True))


def branch_names(resolutions: tuple[int, ...]) -> list[str]:
    """Returns a name for each resolution, `"r32_branch1"` where all are equal."""
    names = [f"r{resolution}" for resolution in resolutions]
    if len(set(names)) == len(names):
        return names
    return [f"{name}_branch{i}" for i, name in enumerate(names)]


def trained_index(resolutions: tuple[int, ...], resolution: int) -> int:
    """Returns the index of a trained resolution.

    Raises:
        ValueError: If the resolution was not trained.
    """
    if resolution not in resolutions:
        raise ValueError(
            "Only the resolutions that the network was built with can be "
            f"trained: {resolutions}. Received: resolution={resolution}"
        )
    return resolutions.index(resolution)


def neighbours(
    resolutions: tuple[int, ...], resolution: int, extrapolate: bool
) -> tuple[int, int, float]:
    """Returns the trained resolutions on both sides of another resolution.

    Args:
        resolutions: The trained resolutions, the largest first.
        resolution: A resolution that was not trained.
        extrapolate: Outside the trained range, return the nearest resolution
            twice instead of raising an error.

    Returns:
        The index of the next larger resolution, the index of the next smaller
        one, and the share of the larger one in a linear interpolation.

    Raises:
        ValueError: Outside the trained range, without `extrapolate`.
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

    In inference, a resolution between two trained ones uses four vectors
    interpolated linearly between those of its neighbours (section 4.3).

    Args:
        resolutions: The trained resolutions of the network's input, in
            pixels (not of this layer's input).
        momentum, epsilon, gamma_initializer: As for `BatchNormalization`.
        extrapolate: Outside the trained range, use the nearest resolution's
            vectors instead of raising an error.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        resolution: The resolution of the network's input, in pixels.
        branch: The index of the branch where all resolutions are equal.
        training: As for `BatchNormalization`.

    Raises:
        ValueError: For a resolution outside the trained range without
            `extrapolate`, and in training for a resolution that is not one of
            `resolutions`.

    Example:

    >>> bn = SwitchableBatchNormalization(resolutions=(64, 32))
    >>> y = bn(features, resolution=32, training=True)
    """

    depends_on = ("resolution", "branch")

    def __init__(
        self,
        resolutions: Sequence[int],
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        gamma_initializer: str | dict | keras.Initializer = "ones",
        extrapolate: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.resolutions = check_resolutions(resolutions)
        self.momentum = as_share("momentum", momentum)
        self.epsilon = float(epsilon)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.extrapolate = bool(extrapolate)
        self.branches = [
            BatchNormalization(
                momentum,
                epsilon,
                gamma_initializer,
                name=name,
                dtype=self.dtype_policy,
            )
            for name in branch_names(self.resolutions)
        ]

    def build(self, input_shape):
        for branch in self.branches:
            branch.build(input_shape)

    def call(self, inputs, resolution, branch=None, training=None):
        if training or resolution in self.resolutions:
            return self._branch(resolution, branch)(inputs, training=training)
        return normalize(inputs, *self.affine(resolution))

    def affine(self, resolution, branch=None):
        """Returns the scale and offset of each channel in inference."""
        if resolution in self.resolutions:
            return self._branch(resolution, branch).affine()
        return affine(*self._interpolate(resolution), epsilon=self.epsilon)

    def statistics(self, resolution, branch=None):
        """Returns the running mean and variance of a trained resolution."""
        return self._branch(resolution, branch).statistics()

    def normalize_by_batch(self, inputs, resolution, branch=None):
        """Normalizes by the batch; see `BatchNormalization`."""
        return self._branch(resolution, branch).normalize_by_batch(inputs)

    def _branch(self, resolution, branch):
        if branch is not None:
            return self.branches[branch]
        return self.branches[trained_index(self.resolutions, resolution)]

    def _interpolate(self, resolution):
        """Returns mean, variance, gamma and beta of an untrained resolution."""
        upper, lower, share = neighbours(self.resolutions, resolution, self.extrapolate)
        upper, lower = self.branches[upper], self.branches[lower]
        return [
            share * getattr(upper, name) + (1 - share) * getattr(lower, name)
            for name in ("moving_mean", "moving_variance", "gamma", "beta")
        ]

    def compute_output_spec(self, inputs, resolution, branch=None, training=None):
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
