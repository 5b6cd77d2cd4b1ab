"""Eight-bit quantization with the quantizers of TensorFlow Model Optimization."""

import dataclasses

import keras
from keras import ops

from keras_resadapt.layers.replicas import gather_from_replicas, num_replicas
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
    """TFMOT's `LastValueQuantizer`, symmetric and with a narrow range.

    Levels are the multiples from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1 of a
    step, so that the outermost levels are the largest magnitude of the kernel.

    Args:
        bits: Bits per weight.
        per_channel: Whether each output channel has its own step.
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
        kernel = ops.cast(kernel, "float32")
        self._quantizer(kernel, training=True, weights=tensors(self._range))
        # A channel of zeros needs a range as well, because LiteRT divides by it.
        for variable, value in zip(self._range.values(), (-1.0, 1.0)):
            limit = ops.cast(variable, "float32")
            variable.assign(ops.where(ops.equal(limit, 0.0), value, limit))

    start = fit

    def magnitude(self, channels):
        """Returns the largest level, per output channel or for all of them.

        Args:
            channels: Number of the first output channels to return it for.
        """
        magnitude = ops.cast(self._range["max_var"], "float32")
        if self.per_channel:
            magnitude = first_channels(magnitude, channels)
        return magnitude

    def step(self, channels):
        """Returns the distance between two levels; see `magnitude`."""
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
    """TFMOT's `MovingAverageQuantizer`, with one range per tensor.

    Levels are 2^bits evenly spaced values from a minimum to a maximum,
    including 0. The minimum and maximum are moving averages over batches. Each
    of the first thousand batches counts by 1 / (batches + 1). Under
    `tf.distribute`, they are those of all replicas together.

    Args:
        bits: Bits per activation.
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
        extremes = self.estimate(inputs)
        # TFMOT's average moves by a thousandth per step: it would take a
        # thousand steps to leave its initial range, or to follow a residual
        # that starts at zero.
        batches = ops.cast(self.batches, "float32")
        share = ops.where(batches < 1000, 1 / (batches + 1), 0.0)
        for variable, value in zip(self.state, extremes):
            variable.assign(variable + share * (value - variable))
        # TFMOT's quantizer finds the extremes of its inputs itself, in this
        # replica alone. So it updates the range from those of all replicas.
        self._quantize(ops.stack(extremes), True, *self.state)
        return self.rounded(inputs, *self.state)

    def estimate(self, inputs, *state):
        inputs = ops.reshape(inputs, (-1,))
        # A replica without images has the range [0, 0].
        extremes = [
            ops.min(inputs, initial=0.0),
            ops.max(inputs, initial=0.0),
        ]
        if num_replicas() > 1:
            extremes = gather_from_replicas(ops.stack(extremes)[None])
            extremes = [ops.min(extremes[:, 0]), ops.max(extremes[:, 1])]
        return tuple(extremes)

    def step(self, *state):
        """Returns the distance between two levels, by default of its own state."""
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

    Weights are symmetric with a narrow range, activations asymmetric; see
    `LastValueWeights` and `MovingRangeActivations`. BatchNormalization is never
    folded into quantized weights, but only into their scales, so that all
    operating points share the integers.

    Args:
        weight_bits, activation_bits: From 4 to 8. LiteRT needs 8.
        per_channel: Whether weights have one scale per output channel.
        first: Whether the convolution that takes the images is quantized.
        last: Whether the layers that compute the outputs are quantized: the dense
            layers of classifiers and of a detector's box head, and the last
            convolutions of a decoder and of a detector's RPN and mask head.
        private_ranges: Whether each operating point has its own activation
            ranges, as it has its own BatchNormalization. Otherwise all share
            one.

    Raises:
        ValueError: For a number of bits that is not supported.
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
