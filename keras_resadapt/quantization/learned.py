"""LQ-Nets: learned quantization (Zhang et al., ECCV 2018)."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_resadapt.layers.slimmable import channels_of, first_channels
from keras_resadapt.quantization.levels import (
    codes,
    least_squares,
    level_sums,
    round_to_levels,
    sorted_levels,
)
from keras_resadapt.quantization.packed import PACKED_LAYERS, PackedWeights
from keras_resadapt.quantization.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
)
from keras_resadapt.quantization.scheme import Scheme, check_bits

# Share of the basis that a training step keeps
MOMENTUM = 0.9
# The third quartile of the normal distribution
QUARTILE = 0.6745
_FITTING_STEPS = 50


@keras.saving.register_keras_serializable("keras_resadapt")
class LearnedWeights(WeightQuantizer):
    """Weights as signed sums of a basis, with one basis per output channel.

    A training step rounds with the current basis, then moves the basis towards
    the least squares solution for the codes of the rounded weights. Gradients
    pass straight through.

    Args:
        bits: Numbers in a basis.
    """

    def __init__(self, bits: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.bits = bits
        self.table = codes(bits, signed=True)

    def build(self, kernel_shape):
        height, width, _, out_channels = kernel_shape
        deviation = (2 / (height * width * out_channels)) ** 0.5
        self.basis = self.add_weight(
            shape=(self.bits, out_channels),
            initializer=lambda shape, dtype: ops.cast(
                self._initial(ops.full((out_channels,), deviation)), dtype
            ),
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="mean",
            name="basis",
        )

    def _initial(self, deviation):
        """Returns the basis for normally distributed weights."""
        powers = 2.0 ** np.arange(self.bits)[:, None]
        return QUARTILE * deviation * powers.astype("float32") / (2 ** (self.bits - 1))

    def train(self, kernel, whole):
        basis = ops.cast(self.basis, "float32")
        outputs, refitted = self._round_and_refit(whole, basis)
        if kernel.shape != whole.shape:
            outputs = self.rounded(kernel)
        self.basis.assign(MOMENTUM * basis + (1 - MOMENTUM) * refitted)
        return kernel + ops.stop_gradient(outputs - kernel)

    def _round_and_refit(self, kernel, basis):
        kernel = ops.stop_gradient(kernel)
        levels, code_of_level = sorted_levels(basis, self.table)
        outputs, above = round_to_levels(kernel, levels)
        counts, sums = level_sums(kernel, above, (0, 1, 2))
        return outputs, least_squares(code_of_level, counts, sums)

    def start(self, kernel):
        pass  # the basis is built with the paper's initial values

    def fit(self, kernel):
        kernel = ops.cast(kernel, "float32")
        deviation = ops.sqrt(ops.mean(ops.square(kernel), (0, 1, 2)))
        self.basis.assign(self._initial(deviation))
        for _ in range(_FITTING_STEPS):
            basis = ops.cast(self.basis, "float32")
            self.basis.assign(self._round_and_refit(kernel, basis)[1])

    def rounded(self, kernel):
        basis = first_channels(ops.cast(self.basis, "float32"), channels_of(kernel))
        levels, _ = sorted_levels(basis, self.table)
        outputs, _ = round_to_levels(kernel, levels)
        return kernel + ops.stop_gradient(outputs - kernel)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


@keras.saving.register_keras_serializable("keras_resadapt")
class LearnedActivations(ActivationQuantizer):
    """Activations that are sums of some of the numbers of one basis.

    The inputs must not be negative. A training step moves the basis like that
    of `LearnedWeights`. Gradients pass straight through where the input is not
    above the largest level.

    Args:
        bits: Numbers in the basis.
    """

    def __init__(self, bits: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.bits = bits
        self.table = codes(bits, signed=False)

    def new_state(self, owner, prefix):
        basis = owner.add_weight(
            shape=(self.bits,),
            initializer=lambda shape, dtype: ops.cast(self._initial_basis(), dtype),
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="mean",
            name=f"{prefix}basis",
        )
        return (basis,)

    def train(self, inputs):
        (variable,) = self.state
        basis = ops.cast(variable, "float32")
        outputs, refitted = self._round_and_refit(inputs, basis)
        variable.assign(MOMENTUM * basis + (1 - MOMENTUM) * refitted)
        return outputs

    def estimate(self, inputs, *state):
        (basis,) = state
        return self._round_and_refit(inputs, ops.cast(basis, "float32"))[1:]

    def fitted(self, inputs, basis):
        # The search starts at the paper's initial basis, scaled to the inputs.
        # The positive half of a normal distribution has the mean square 1 / 2.
        size = ops.sqrt(2 * ops.mean(ops.square(inputs)))
        basis = size * self._initial_basis()
        return (
            ops.fori_loop(
                0,
                _FITTING_STEPS,
                lambda _, basis: self._round_and_refit(inputs, basis)[1],
                basis,
            ),
        )

    def _initial_basis(self):
        # For the positive half of a normal distribution of variance 1
        powers = 2.0 ** np.arange(self.bits)
        return (QUARTILE * 2 / (2**self.bits - 1) * powers).astype("float32")

    def rounded(self, inputs, *state):
        (basis,) = state
        levels, _ = self._levels(ops.cast(basis, "float32"))
        return self._straight_through(inputs, levels)[0]

    def _levels(self, basis):
        return sorted_levels(basis[:, None], self.table)

    def _straight_through(self, inputs, levels):
        outputs, above = round_to_levels(ops.stop_gradient(inputs), levels)
        clipped = ops.minimum(inputs, levels[-1])
        return clipped + ops.stop_gradient(outputs - clipped), above

    def _round_and_refit(self, inputs, basis):
        levels, code_of_level = self._levels(basis)
        outputs, above = self._straight_through(inputs, levels)
        counts, sums = level_sums(ops.stop_gradient(inputs), above, None)
        return outputs, least_squares(code_of_level, counts, sums)[:, 0]

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


@keras.saving.register_keras_serializable("keras_resadapt")
@dataclasses.dataclass(frozen=True)
class LearnedQuantization(Scheme):
    """LQ-Nets, with which RS-Nets were quantized (RS-Net, table 3).

    The levels of weights are signed sums of a basis, with one basis per output
    channel. The levels of activations are sums of some of the numbers of one
    basis. See `LearnedWeights` and `LearnedActivations`. The convolution that
    takes the images and the layers that compute the outputs, which are those of
    `last` of `Int8`, stay in float.

    RS-Nets on ResNets adapt their architecture: with quantized activations they
    use pre-activation; with float activations, each residual starts at zero.

    Args:
        weight_bits: From 1 to 4.
        activation_bits: From 1 to 4, or 32 for activations in float.
        private_ranges: Whether each operating point has its own activation
            bases, as it has its own BatchNormalization. Otherwise all share
            one, as in the authors' networks.
        packed: Whether to store `weight_bits` bits per weight instead of a
            float that is rounded. `quantization.pack` makes such a network,
            which cannot be trained.

    Raises:
        ValueError: For a number of bits that is not supported.

    Reference:
        LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep
        Neural Networks (https://arxiv.org/abs/1807.10029).
    """

    weight_bits: int = 2
    activation_bits: int = 32
    private_ranges: bool = True
    packed: bool = False

    first = last = False

    def __post_init__(self):
        name = "LearnedQuantization"
        check_bits(name, range(1, 5), weight_bits=self.weight_bits)
        check_bits(name, (1, 2, 3, 4, 32), activation_bits=self.activation_bits)

    def layer_forms(self):
        return PACKED_LAYERS if self.packed else super().layer_forms()

    def weights(self):
        if self.packed:
            return PackedWeights(self.weight_bits)
        return LearnedWeights(self.weight_bits)

    def activations(self, function, non_negative, name):
        if self.activation_bits == 32:
            return None
        if not (non_negative or function in ("relu", "relu6")):
            raise ValueError(
                f"The activation {name!r} has no quantized form: it can be "
                "negative, and `LearnedQuantization` has no negative levels. "
                "Use `activation_bits=32`, or `Int8`. "
                f"Received: activation_bits={self.activation_bits}"
            )
        return LearnedActivations(self.activation_bits)

    def junctions(self):
        return None
