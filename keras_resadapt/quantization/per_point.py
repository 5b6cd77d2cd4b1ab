"""Activation quantizers with one state per operating point."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.layers.point_variables import PointVariables
from keras_resadapt.layers.switchable_batch_normalization import (
    check_resolutions,
    neighbours,
    trained_index,
)
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.quantization.quantizers import (
    ActivationQuantizer,
    new_counter,
    quantizer_config,
    with_quantizers,
)


def _copy(quantizer, name):
    return type(quantizer).from_config({**quantizer.get_config(), "name": name})


class _HasQuantizer(keras.layers.Layer):
    """A layer made of one `ActivationQuantizer`, its first argument."""

    def compute_output_spec(self, inputs, *args, **kwargs):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {**super().get_config(), **quantizer_config(self, "quantizer")}

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_quantizers(config))


@keras.saving.register_keras_serializable("keras_resadapt")
class SwitchableQuantizer(_HasQuantizer):
    """Activations rounded with one state per resolution.

    In inference, the state of a resolution between two trained ones is
    interpolated linearly, as in `SwitchableBatchNormalization`.

    Args:
        quantizer: An `ActivationQuantizer`; each resolution gets a copy.
        resolutions: The trained resolutions of the network's input, in
            pixels.
        extrapolate: As for `SwitchableBatchNormalization`.

    Call arguments:
        inputs: Float tensor of any shape.
        resolution: The resolution of the network's input, in pixels.
        training: As for `ActivationQuantizer`.
    """

    depends_on = ("resolution",)

    def __init__(
        self,
        quantizer: ActivationQuantizer,
        resolutions: Sequence[int],
        extrapolate: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.resolutions = check_resolutions(resolutions)
        self.extrapolate = extrapolate
        self.branches = [
            _copy(quantizer, f"r{resolution}") for resolution in self.resolutions
        ]

    @property
    def quantizer(self):
        return self.branches[0]

    def build(self, input_shape=None):
        for branch in self.branches:
            branch.build(input_shape)

    def call(self, inputs, resolution, training=None):
        if training or resolution in self.resolutions:
            return self._branch(resolution)(inputs, training=training)
        state = self._state(resolution)
        outputs = self.quantizer.rounded(ops.cast(inputs, "float32"), *state)
        return ops.cast(outputs, inputs.dtype)

    def _state(self, resolution) -> list:
        if resolution in self.resolutions:
            return self._branch(resolution).state
        upper, lower, share = neighbours(self.resolutions, resolution, self.extrapolate)
        return [
            share * high + (1 - share) * low
            for high, low in zip(self.branches[upper].state, self.branches[lower].state)
        ]

    def step(self, resolution):
        """Returns the distance between the levels at a resolution."""
        return self.quantizer.step(*self._state(resolution))

    def quantize_by_batch(self, inputs, resolution):
        """See `ActivationQuantizer`."""
        return self._branch(resolution).quantize_by_batch(inputs)

    def calibrate(self, inputs, resolution):
        """See `ActivationQuantizer`."""
        self._branch(resolution).calibrate(inputs)

    def counter(self, resolution):
        """Returns `batches` of the state of a trained resolution."""
        return self._branch(resolution).batches

    def counters(self, resolution) -> list:
        """Returns `batches` of each state that a resolution uses."""
        if resolution in self.resolutions:
            return [self._branch(resolution).batches]
        return [branch.batches for branch in self.branches]

    def _branch(self, resolution):
        return self.branches[trained_index(self.resolutions, resolution)]

    def get_config(self):
        return {
            **super().get_config(),
            "resolutions": self.resolutions,
            "extrapolate": self.extrapolate,
        }


@keras.saving.register_keras_serializable("keras_resadapt")
class SlimmableQuantizer(PointVariables, _HasQuantizer):
    """Activations of a slimmable network, with one state per operating point.

    Training updates the state of the full network alone; the sub-networks
    round each batch to levels that fit it. The states of other points are added
    and computed after training, by `quantization.calibrate_ranges`.

    Args:
        quantizer: An `ActivationQuantizer`, of the full network.
        full_resolution: Resolution of the full network, in pixels.
        full_width: Width multiplier of the full network.

    Call arguments:
        inputs: Float tensor of any shape.
        resolution, width: Axes of the operating point.
        training: As for `ActivationQuantizer`.
    """

    depends_on = ("resolution", "width")
    what = "activation ranges"
    how = "quantization.calibrate_ranges"

    def __init__(
        self,
        quantizer: ActivationQuantizer,
        full_resolution: int,
        full_width: float,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.full_resolution = full_resolution
        self.full_width = full_width
        self.quantizer = _copy(quantizer, "full")
        self.of_points = {}  # (*state, counter) by point

    def build(self, input_shape=None):
        self.quantizer.build(input_shape)

    def call(self, inputs, resolution, width, training=None):
        if self.is_full(resolution, width):
            return self.quantizer(inputs, training=training)
        if training:
            return self.quantizer.quantize_by_batch(inputs)
        state = self._state(resolution, width)
        outputs = self.quantizer.rounded(ops.cast(inputs, "float32"), *state)
        return ops.cast(outputs, inputs.dtype)

    def _state(self, resolution, width) -> list:
        if self.is_full(resolution, width):
            return self.quantizer.state
        *state, _ = self.at_point(resolution, width)
        return state

    def step(self, resolution, width):
        """Returns the distance between the levels at a point."""
        return self.quantizer.step(*self._state(resolution, width))

    def add_statistics(self, resolution, width) -> None:
        """Adds the state of one more point."""
        prefix = f"{OperatingPoint(resolution, width).name}_"
        with self.adding_to(resolution, width) as key:
            state = self.quantizer.new_state(self, prefix)
            counter = new_counter(self, f"{prefix}batches")
            self.of_points[key] = (*state, counter)

    def quantize_by_batch(self, inputs, resolution, width):
        """See `ActivationQuantizer`."""
        return self.quantizer.quantize_by_batch(inputs)

    def calibrate(self, inputs, resolution, width):
        """See `ActivationQuantizer`."""
        if self.is_full(resolution, width):
            return self.quantizer.calibrate(inputs)
        *state, batches = self.at_point(resolution, width)
        self.quantizer.calibrate(inputs, state, batches)

    def counter(self, resolution, width):
        """Returns `batches` of the state of a point."""
        if self.is_full(resolution, width):
            return self.quantizer.batches
        return self.at_point(resolution, width)[-1]

    def counters(self, resolution, width) -> list:
        """Returns `batches` of the state of a point, in a list."""
        return [self.counter(resolution, width)]

    def named_variables(self):
        count = len(self.quantizer.state)
        return self.named_at_points(*map(str, range(count)), "batches")

    def get_config(self):
        return {
            **super().get_config(),
            "full_resolution": self.full_resolution,
            "full_width": self.full_width,
        }
