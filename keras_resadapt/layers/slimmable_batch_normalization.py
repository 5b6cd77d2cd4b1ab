"""BatchNormalization of the first channels, with statistics per point."""

import keras

from keras_resadapt.layers.batch_normalization import (
    BatchNormalization,
    affine,
    normalize,
)
from keras_resadapt.layers.point_variables import PointVariables
from keras_resadapt.layers.slimmable import channels_of, first_channels
from keras_resadapt.number_checks import check_integer
from keras_resadapt.points.operating_point import OperatingPoint


@keras.saving.register_keras_serializable("keras_resadapt")
class SlimmableBatchNormalization(PointVariables, BatchNormalization):
    """Shared scale and bias, and a mean and variance per operating point.

    All widths use the first channels of the same `gamma` and `beta`. Each
    operating point has its own statistics, computed after training (MutualNet,
    section 3.1, "Post-Statistics"); see `inference.calibrate_batch_norm`.
    During training, running statistics are kept for the full network alone.

    Args:
        full_resolution: Resolution of the full network, in pixels.
        full_width: Width multiplier of the full network, the largest one.
        **kwargs: As for `BatchNormalization`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        resolution, width: Axes of the operating point.
        training: Whether to normalize with the statistics of the batch. A
            layer with `trainable=False` does so in the sub-networks only.

    Raises:
        ValueError: In inference, at a point without statistics.
    """

    depends_on = ("resolution", "width")
    what = "BatchNormalization statistics"
    how = "inference.calibrate_batch_norm"

    def __init__(self, full_resolution: int, full_width: float, **kwargs):
        super().__init__(**kwargs)
        self.full_resolution = check_integer(full_resolution, "full_resolution")
        self.full_width = float(full_width)
        self.of_points = {}  # (mean, variance) by point

    def add_statistics(self, resolution, width, channels: int) -> None:
        """Adds statistics of one more point, NaN until they are set."""
        prefix = OperatingPoint(resolution, width).name
        with self.adding_to(resolution, width) as key:
            self.of_points[key] = tuple(
                self.add_weight(
                    shape=(channels,),
                    name=f"{prefix}_{vector}",
                    initializer=keras.initializers.Constant(float("nan")),
                    trainable=False,
                    dtype=self.vector_dtype,
                    autocast=False,
                )
                for vector in ("mean", "variance")
            )

    def call(self, inputs, resolution, width, training=None):
        is_full = self.is_full(resolution, width)
        if not training or (is_full and not self.trainable):
            return normalize(inputs, *self.affine(resolution, width))
        outputs, mean, variance = self.normalize_by_batch(inputs, resolution, width)
        if is_full:
            self.update_statistics(mean, variance)
        return outputs

    def affine(self, resolution, width):
        """Returns the scale and offset of each channel in inference."""
        mean, variance = self.statistics(resolution, width)
        gamma, beta = (
            first_channels(vector, mean.shape[0])
            for vector in self.affine_vectors(resolution)
        )
        return affine(mean, variance, gamma, beta, self.epsilon)

    def affine_vectors(self, resolution):
        """Returns `gamma` and `beta` of a resolution, at full width."""
        return self.gamma, self.beta

    def statistics(self, resolution, width):
        """Returns the mean and variance variables of a point."""
        if self.is_full(resolution, width):
            return self.moving_mean, self.moving_variance
        return self.at_point(resolution, width)

    def normalize_by_batch(self, inputs, resolution, width):
        """Normalizes by the batch; see `BatchNormalization`."""
        channels = channels_of(inputs)
        vectors = (*self.affine_vectors(resolution), self.moving_mean)
        return self.normalize_with(
            inputs, *(first_channels(vector, channels) for vector in vectors)
        )

    def named_variables(self):
        named = {
            name: getattr(self, name)
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        }
        return named | self.named_at_points("mean", "variance")

    def compute_output_spec(self, inputs, resolution, width, training=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "full_resolution": self.full_resolution,
            "full_width": self.full_width,
        }
