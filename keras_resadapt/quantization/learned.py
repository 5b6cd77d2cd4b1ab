"""LQ-Nets: levels that are learned (Zhang et al., ECCV 2018)."""

import dataclasses
import itertools
import math

import keras
import numpy as np
from keras import ops

from keras_resadapt.layers.batch_normalization import num_replicas
from keras_resadapt.layers.slimmable import channels_of, first_channels
from keras_resadapt.quantization.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
)
from keras_resadapt.quantization.scheme import Scheme, check_bits

# The share of itself that a basis keeps in a training step
MOMENTUM = 0.9
# Added to the diagonal of the least squares, so that they have a solution
RIDGE = 1e-4
# The third quartile of the normal distribution
QUARTILE = 0.6745
_FITTING_STEPS = 50


def codes(bits: int, signed: bool) -> np.ndarray:
    """All codes, of +-1 or of 0 and 1, as an array (2^bits, bits)."""
    digits = (-1.0, 1.0) if signed else (0.0, 1.0)
    return np.array(list(itertools.product(digits, repeat=bits)), "float32")


def sorted_levels(basis, code_table: np.ndarray):
    """The levels of a basis, the smallest first, and their codes.

    Args:
        basis: Tensor of shape (bits, channels).
        code_table: As from `codes`.

    Returns:
        Levels (2^bits, channels), and codes (2^bits, channels, bits).
    """
    table = ops.convert_to_tensor(code_table)
    order = ops.argsort(ops.matmul(table, basis), axis=0)
    code_of_level = ops.take(table, order, axis=0)
    return ops.sum(code_of_level * ops.transpose(basis), -1), code_of_level


def least_squares(code_of_level, counts, sums):
    """The basis that fits values best whose codes are given.

    `(B^T B + ridge)^-1 B^T x` with the codes B of all values x (LQ-Nets,
    section 3.2), from what the values of a level have in common.

    Args:
        code_of_level: Tensor (levels, channels, bits).
        counts, sums: Of the values at each level, tensors (levels, channels).

    Returns:
        The basis, a tensor (bits, channels).
    """
    of_channel = ops.transpose(code_of_level, (1, 2, 0))
    weighted = of_channel * ops.transpose(counts)[:, None]
    gram = ops.matmul(weighted, ops.transpose(of_channel, (0, 2, 1)))
    target = ops.matmul(of_channel, ops.transpose(sums)[..., None])
    gram = gram + RIDGE * np.eye(gram.shape[-1], dtype="float32")
    return ops.transpose(ops.solve(gram, target)[..., 0])


def round_to_levels(inputs, levels):
    """The level nearest to each value.

    Thresholds are midway between neighbouring levels; what is greater goes to
    the upper one.

    Args:
        inputs: Tensor whose last axis are the channels, or of any shape for
            one channel.
        levels: Tensor (levels, channels), the smallest first.

    Returns:
        The rounded values, and a list of where they are above a threshold,
        tensors of zeros and ones.
    """
    lower, upper = levels[:-1], levels[1:]
    outputs, above = levels[0], []
    for threshold, step in zip(
        ops.unstack((lower + upper) / 2), ops.unstack(upper - lower)
    ):
        above.append(ops.cast(inputs > threshold, inputs.dtype))
        outputs = outputs + step * above[-1]
    return outputs, above


def level_sums(inputs, above, axes):
    """How many values each level has, and their sum.

    Args:
        inputs: Tensor of values.
        above: As from `round_to_levels`.
        axes: All but the channels'; None for one channel.

    Returns:
        Counts and sums, tensors (levels, channels).
    """
    masks = [ops.ones_like(inputs), *above]

    def each_level(values):
        over = ops.stack([ops.sum(x, axes) for x in values])
        over = ops.reshape(over, (len(values), -1))
        if num_replicas() > 1:
            over = _over_replicas(over)
        # Of what is above a threshold, some is above the next one too.
        over_next = ops.concatenate([over[1:], ops.zeros_like(over[:1])])
        return over - over_next

    return each_level(masks), each_level([inputs * mask for mask in masks])


def _over_replicas(tensor):
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


@keras.saving.register_keras_serializable("keras_resadapt")
class LearnedWeights(WeightQuantizer):
    """Weights as sums of plus or minus the numbers of a basis a channel.

    A training step rounds with the basis that there is, then moves it towards
    the least squares' for the codes so found. Gradients pass straight through.

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
            autocast=False,
            aggregation="mean",
            name="basis",
        )

    def _initial(self, deviation):
        """The basis for normally distributed weights."""
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
        pass  # at the paper's basis, as it was built

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
class PackedWeights(keras.layers.Layer):
    """A kernel of `LearnedWeights`, as its codes and bases alone.

    Args:
        bits: Numbers in a basis; as many bits a weight.
    """

    holds_kernel = True

    def __init__(self, bits: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.bits = bits

    def build(self, kernel_shape):
        *others, out_channels = kernel_shape
        self.weights_per_channel = math.prod(others)
        bytes_per_channel = -(-self.weights_per_channel // 8)
        self.codes = self.add_weight(
            shape=(self.bits, bytes_per_channel, out_channels),
            initializer="zeros",
            dtype="uint8",
            trainable=False,
            name="codes",
        )
        self.basis = self.add_weight(
            shape=(self.bits, out_channels),
            initializer="zeros",
            trainable=False,
            autocast=False,
            name="basis",
        )

    def pack(self, kernel, quantizer: LearnedWeights) -> None:
        """Takes over a kernel, its output channels last."""
        basis = ops.convert_to_numpy(quantizer.basis)
        kernel = ops.convert_to_numpy(kernel).reshape(-1, basis.shape[1])
        levels, code_of_level = map(
            ops.convert_to_numpy,
            sorted_levels(ops.convert_to_tensor(basis), quantizer.table),
        )
        thresholds = (levels[1:] + levels[:-1]) / 2
        level = (kernel > thresholds[:, None]).sum(axis=0)
        channels = np.arange(basis.shape[1])
        signs = code_of_level[level, channels] > 0  # (weights, channels, bits)
        self.codes.assign(
            np.packbits(signs.transpose(2, 0, 1), axis=1, bitorder="little")
        )
        self.basis.assign(basis)

    def unpacked(self, dtype):
        """The kernel, its output channels last, (weights, channels)."""
        shifts = np.arange(8, dtype="uint8")[:, None]
        # Eight weights a byte: (bits, bytes, 8, channels)
        digits = ops.right_shift(self.codes[:, :, None], shifts) & np.uint8(1)
        bits, count, _, channels = digits.shape
        digits = ops.reshape(digits, (bits, 8 * count, channels))
        signs = 2 * ops.cast(digits[:, : self.weights_per_channel], dtype) - 1
        basis = ops.cast(self.basis, dtype)
        return ops.sum(signs * basis[:, None], axis=0)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


@keras.saving.register_keras_serializable("keras_resadapt")
class LearnedActivations(ActivationQuantizer):
    """Activations from 0 as sums of some of the numbers of one basis.

    A training step moves the basis as that of `LearnedWeights`. Gradients
    pass straight through where the input is not above the largest level.

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
        # From the paper's start, for inputs of this size. Of the positive
        # half of a normal distribution the mean square is 1 / 2.
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

    The levels of weights are the sums of plus or minus the numbers of a basis
    an output channel, those of activations the sums of some of the numbers of
    one basis; see `LearnedWeights` and `LearnedActivations`. The convolution
    that takes the images and the classifiers stay in float.

    RS-Nets on ResNets are built for it: with 2-bit weights and activations in
    float as the usual ResNet, each residual starting at zero; with quantized
    activations as a ResNet with pre-activation.

    Args:
        weight_bits: From 1 to 4.
        activation_bits: From 1 to 4, or 32 for activations in float.
        packed: Hold `weight_bits` bits a weight instead of a float that is
            rounded. Such a network is made by `quantization.pack` and cannot
            be trained.
        private_ranges: Each operating point has its own activation bases, as
            it has its own BatchNormalization; otherwise all share one, as in
            the authors' networks.

    Raises:
        ValueError: For bits that it does not know.

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

    def weights(self):
        if self.packed:
            return PackedWeights(self.weight_bits)
        return LearnedWeights(self.weight_bits)

    def activations(self, function, non_negative, name):
        if self.activation_bits == 32:
            return None
        if not (non_negative or function in ("relu", "relu6")):
            raise ValueError(
                f"The activation {name!r} has no quantized form: it has "
                "negative values, and the levels of `LearnedQuantization` "
                "have none. Use `activation_bits=32`, or `Int8`. "
                f"Received: activation_bits={self.activation_bits}"
            )
        return LearnedActivations(self.activation_bits)

    def junctions(self):
        return None
