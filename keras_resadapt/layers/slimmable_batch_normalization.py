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
        training: Normalize with the statistics of the batch. A layer with
            `trainable=False` does so in the sub-networks only.

    Raises:
        ValueError: Not in training, at a point without statistics.
    """

    depends_on = ("resolution", "width")

    def __init__(self, full_resolution: int, full_width: float, **kwargs):
        super().__init__(**kwargs)
        self.full_resolution = full_resolution
        self.full_width = full_width
        self._statistics = {}  # mean and variance, by `_key`

    def add_statistics(self, resolution, width, channels: int) -> None:
        """Makes room for those of one more point; NaN until they are set."""
        name = OperatingPoint(resolution, width).name
        # As Keras itself does where a built layer gets another variable.
        self._tracker.unlock()
        self._statistics[_key(resolution, width)] = tuple(
            self.add_weight(
                shape=(channels,),
                name=f"{name}_{vector}",
                initializer=keras.initializers.Constant(float("nan")),
                trainable=False,
                autocast=False,
            )
            for vector in ("mean", "variance")
        )
        self._tracker.lock()

    def forget_statistics(self) -> None:
        """Drops those of all points but the full network."""
        self._tracker.unlock()
        for variables in self._statistics.values():
            for variable in variables:
                self._untrack_variable(variable)
        self._statistics.clear()
        self._tracker.lock()

    def call(self, inputs, resolution, width, training=None):
        is_full = self._is_full(resolution, width)
        if not training or (is_full and not self.trainable):
            return normalize(inputs, *self.affine(resolution, width))
        outputs, mean, variance = self.normalize_by_batch(inputs)
        if is_full:
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
        key = _key(resolution, width)
        if key not in self._statistics:
            full = _key(self.full_resolution, self.full_width)
            raise ValueError(
                f"There are no BatchNormalization statistics of {key}, only "
                f"of: {', '.join([full, *self._statistics])}. Compute them on "
                "training images: `keras_resadapt.inference."
                "calibrate_batch_norm(model, data, points)`."
            )
        return self._statistics[key]

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

    # Under their points' names, so that no file fills those of another.

    def save_own_variables(self, store):
        for name, variable in self._named_variables().items():
            store[name] = variable.numpy()

    def load_own_variables(self, store):
        named = self._named_variables()
        if set(named) != set(store.keys()):
            raise ValueError(
                "The file's BatchNormalization statistics are not of the "
                "model's operating points: build the model with the same "
                f"`calibrated`. The file has {sorted(store.keys())}, the "
                f"model {sorted(named)}"
            )
        for name, variable in named.items():
            variable.assign(store[name])

    def _named_variables(self):
        named = {
            name: getattr(self, name)
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        }
        for key, pair in self._statistics.items():
            for vector, variable in zip(("mean", "variance"), pair):
                named[f"{key}_{vector}"] = variable
        return named

    def compute_output_spec(self, inputs, resolution, width, training=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "full_resolution": self.full_resolution,
            "full_width": self.full_width,
        }


def _key(resolution, width) -> str:
    """A point's name with all digits of the width."""
    return f"r{resolution}_w{float(width)!r}"
