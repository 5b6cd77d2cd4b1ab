"""Eight-bit quantization, as TensorFlow Model Optimization does it."""

import dataclasses

import keras
from keras import ops

from keras_resadapt.layers.slimmable import channels_of, first_channels
from keras_resadapt.quantization.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
)
from keras_resadapt.quantization.scheme import Scheme, check_bits
from keras_resadapt.quantization.tfmot import (
    KerasAdapter,
    tensors,
    tfmot_quantizers,
)


@keras.saving.register_keras_serializable("keras_resadapt")
class LastValueWeights(WeightQuantizer):
    """TFMOT's `LastValueQuantizer`, symmetric, of a narrow range.

    Levels are the multiples, from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1, of
    a step that fits the kernel's last largest magnitude.

    Args:
        bits: Of a weight.
        per_channel: One step an output channel, instead of one for all.
    """

    def __init__(self, bits: int = 8, per_channel: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.bits = bits
        self.per_channel = per_channel

    def build(self, kernel_shape):
        self._quantizer = tfmot_quantizers().LastValueQuantizer(
            num_bits=self.bits,
            per_axis=self.per_channel,
            symmetric=True,
            narrow_range=True,
        )
        self._range = self._quantizer.build(kernel_shape, "weights", KerasAdapter(self))

    def train(self, kernel, whole):
        self.fit(whole)
        return self.rounded(kernel)

    def fit(self, kernel):
        # Of a part of the kernel, `training=True` would see a part's range.
        kernel = ops.cast(kernel, "float32")
        self._quantizer(kernel, training=True, weights=tensors(self._range))
        # A channel of zeros needs a range as well: its levels become scales.
        for variable, value in zip(self._range.values(), (-1.0, 1.0)):
            limit = ops.cast(variable, "float32")
            variable.assign(ops.where(ops.equal(limit, 0.0), value, limit))

    start = fit

    def magnitude(self, channels):
        """The largest magnitude that has a level, of each of the first
        output channels, or one for all."""
        magnitude = ops.cast(self._range["max_var"], "float32")
        if self.per_channel:
            magnitude = first_channels(magnitude, channels)
        return magnitude

    def step(self, channels):
        """The distance of two levels, likewise."""
        return self.magnitude(channels) / (2 ** (self.bits - 1) - 1)

    def rounded(self, kernel):
        limits = tensors(self._range)
        if self.per_channel:
            channels = channels_of(kernel)
            limits = {
                name: first_channels(ops.cast(limit, "float32"), channels)
                for name, limit in limits.items()
            }
        return self._quantizer(kernel, training=False, weights=limits)

    def get_config(self):
        return {
            **super().get_config(),
            "bits": self.bits,
            "per_channel": self.per_channel,
        }


@keras.saving.register_keras_serializable("keras_resadapt")
class MovingRangeActivations(ActivationQuantizer):
    """TFMOT's `MovingAverageQuantizer`, one range for the tensor.

    Levels are 2^bits evenly spaced values, among them 0, from a minimum to a
    maximum. Those are moving averages of the batches' own, which at first,
    until a thousand batches were seen, count by 1 / (batches + 1).

    Args:
        bits: Of an activation.
    """

    def __init__(self, bits: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.bits = bits

    def build(self, input_shape=None):
        self._quantizer = tfmot_quantizers().MovingAverageQuantizer(
            num_bits=self.bits,
            per_axis=False,
            symmetric=False,
            narrow_range=False,
        )
        super().build(input_shape)

    def new_state(self, owner, prefix):
        limits = self._quantizer.build(
            None, f"{prefix}activations", KerasAdapter(owner)
        )
        return limits["min_var"], limits["max_var"]

    def train(self, inputs):
        # TFMOT's average forgets a thousandth a step: it would take that long
        # to come down from where it starts, or to follow a residual that
        # starts at zero.
        batches = ops.cast(self.batches, "float32")
        share = ops.where(batches < 1000, 1 / (batches + 1), 0.0)
        for variable, value in zip(self.state, self.estimate(inputs)):
            variable.assign(variable + share * (value - variable))
        return self._quantize(inputs, True, *self.state)

    def estimate(self, inputs, *state):
        return (
            ops.minimum(ops.min(inputs), 0.0),
            ops.maximum(ops.max(inputs), 0.0),
        )

    def step(self, *state):
        """The distance of two levels, of the layer's own state by default."""
        minimum, maximum = state or self.state
        return (maximum - minimum) / (2**self.bits - 1)

    def rounded(self, inputs, *state):
        return self._quantize(inputs, False, *state)

    def _quantize(self, inputs, training, minimum, maximum):
        limits = {"min_var": minimum, "max_var": maximum}
        if hasattr(minimum, "value"):  # variables, not tensors
            limits = tensors(limits)
        return self._quantizer(inputs, training=training, weights=limits)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


@keras.saving.register_keras_serializable("keras_resadapt")
@dataclasses.dataclass(frozen=True)
class Int8(Scheme):
    """TFMOT's default 8-bit scheme, with its own quantizers.

    Weights are symmetric and of a narrow range, activations asymmetric; see
    `LastValueWeights` and `MovingRangeActivations`. BatchNormalization is
    never folded into quantized weights, so that all operating points share
    them: it changes their scales alone.

    Args:
        weight_bits, activation_bits: From 4 to 8. LiteRT takes 8.
        per_channel: One scale an output channel for weights.
        first: Whether the convolution that takes the images is quantized.
        last: Whether the classifiers' dense layers are.
        private_ranges: Each operating point has its own activation ranges, as
            it has its own BatchNormalization; otherwise all share one.

    Raises:
        ValueError: For bits that it does not know.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    per_channel: bool = True
    first: bool = True
    last: bool = True
    private_ranges: bool = True

    def __post_init__(self):
        check_bits("Int8", range(4, 9), weight_bits=self.weight_bits)
        check_bits("Int8", range(4, 9), activation_bits=self.activation_bits)

    def check(self) -> None:
        tfmot_quantizers()

    def weights(self):
        return LastValueWeights(self.weight_bits, self.per_channel)

    def activations(self, function, non_negative, name):
        return MovingRangeActivations(self.activation_bits)

    def junctions(self):
        return MovingRangeActivations(self.activation_bits)
