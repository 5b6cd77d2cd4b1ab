"""BatchNormalization of the first channels, with statistics a point."""

import keras

from keras_resadapt.layers.batch_normalization import BatchNormalization
from keras_resadapt.layers.batch_normalization import affine
from keras_resadapt.layers.batch_normalization import normalize
from keras_resadapt.layers.slimmable import channels_of
from keras_resadapt.layers.slimmable import first_channels
from keras_resadapt.operating_point import OperatingPoint


@keras.saving.register_keras_serializable("keras_resadapt")
class SlimmableBatchNormalization(BatchNormalization):
    """Scale and bias of the first channels, mean and variance of each point.

    All widths share `gamma` and `beta`, as far as they reach. Statistics are
    another matter: each operating point has its own, computed after training
    (MutualNet, section 3.1, "Post-Statistics"); see
    `inference.calibrate_batch_norm`. While training, running ones are kept
    for the full network alone.

    Args:
        full_resolution: Of the full network, in pixels.
        full_width: Its width multiplier, the largest.
        **kwargs: As for `BatchNormalization`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        resolution, width: Of the operating point.
        training: Normalize with the statistics of the batch.

    Raises:
        ValueError: Not in training, at a point without statistics.
    """

    depends_on = ("resolution", "width")

    def __init__(self, full_resolution: int, full_width: float, **kwargs):
        super().__init__(**kwargs)
        self.full_resolution = full_resolution
        self.full_width = full_width
        self._statistics = {}  # by the point's name, mean and variance

    def add_statistics(self, name: str, channels: int) -> None:
        """Makes room for those of one more point."""
        # As Keras itself does where a built layer gets another variable.
        self._tracker.unlock()
        self._statistics[name] = tuple(
            self.add_weight(
                shape=(channels,),
                name=f"{name}_{vector}",
                initializer=initializer,
                trainable=False,
                autocast=False,
            )
            for vector, initializer in (("mean", "zeros"), ("variance", "ones"))
        )
        self._tracker.lock()

    def call(self, inputs, resolution, width, training=None):
        if not training:
            return normalize(inputs, *self.affine(resolution, width))
        outputs, mean, variance = self.normalize_by_batch(inputs)
        if self.trainable and self._is_full(resolution, width):
            self.update_statistics(mean, variance)
        return outputs

    def affine(self, resolution, width):
        """The scale and offset of each channel in inference."""
        mean, variance = self.statistics(resolution, width)
        channels = mean.shape[0]
        return affine(
            mean,
            variance,
            first_channels(self.gamma, channels),
            first_channels(self.beta, channels),
            self.epsilon,
        )

    def statistics(self, resolution, width):
        """The mean and variance variables of a point."""
        if self._is_full(resolution, width):
            return self.moving_mean, self.moving_variance
        name = OperatingPoint(resolution, width).name
        if name not in self._statistics:
            raise ValueError(
                f"There are no BatchNormalization statistics of {name!r}, "
                "only of: "
                f"{[self._full_name(), *self._statistics]}. Compute them on training images: "
                "`keras_resadapt.inference.calibrate_batch_norm(model, data, "
                "points)`."
            )
        return self._statistics[name]

    def normalize_by_batch(self, inputs, **axes):
        channels = channels_of(inputs)
        return super().normalize_by_batch(
            inputs,
            first_channels(self.gamma, channels),
            first_channels(self.beta, channels),
        )

    def _is_full(self, resolution, width) -> bool:
        # A width that was drawn in training is a tensor.
        return (
            resolution == self.full_resolution
            and isinstance(width, (int, float))
            and width == self.full_width
        )

    def _full_name(self):
        return OperatingPoint(self.full_resolution, self.full_width).name

    def compute_output_spec(self, inputs, resolution, width, training=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "full_resolution": self.full_resolution,
            "full_width": self.full_width,
        }
