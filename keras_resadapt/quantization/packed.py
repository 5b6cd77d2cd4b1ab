"""Kernels that are held in few bits per weight."""

import math

import keras
import numpy as np
from keras import ops

from keras_resadapt.layers.convolution import Conv2D, DepthwiseConv2D
from keras_resadapt.layers.slimmable import SlimmableConv2D, SlimmableDepthwiseConv2D
from keras_resadapt.quantization.convolution import (
    QuantizedConv2D,
    QuantizedDepthwiseConv2D,
    QuantizedSlimmableConv2D,
    QuantizedSlimmableDepthwiseConv2D,
)
from keras_resadapt.quantization.levels import sorted_levels


@keras.saving.register_keras_serializable("keras_resadapt")
class PackedWeights(keras.layers.Layer):
    """A kernel of `LearnedWeights`, stored as codes and bases.

    Args:
        bits: Numbers in a basis, and bits per weight.
    """

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

    def pack(self, kernel, quantizer) -> None:
        """Stores a kernel.

        Args:
            kernel: Tensor with the output channels in the last axis.
            quantizer: The `LearnedWeights` of the kernel.
        """
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
        """Returns the kernel, of shape (weights per channel, channels)."""
        shifts = np.arange(8, dtype="uint8")[:, None]
        # Eight weights per byte: (bits, bytes, 8, channels)
        digits = ops.right_shift(self.codes[:, :, None], shifts) & np.uint8(1)
        bits, count, _, channels = digits.shape
        digits = ops.reshape(digits, (bits, 8 * count, channels))
        signs = 2 * ops.cast(digits[:, : self.weights_per_channel], dtype) - 1
        basis = ops.cast(self.basis, dtype)
        return ops.sum(signs * basis[:, None], axis=0)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


class PackedConvolution:
    """A quantized convolution whose kernel is held by its `PackedWeights`.

    It is made by `quantization.pack` and cannot be trained.
    """

    is_packed = True

    def build(self, input_shape):
        super().build(input_shape)
        self._kernel_shape = tuple(self.kernel.shape)
        # `del`, the public way to remove a variable from a layer, would collect
        # garbage once per layer.
        self._untrack_variable(self.kernel)
        self.forget_kernel()

    def forget_kernel(self) -> None:
        """Drops the reference to the float kernel."""
        self._kernel = None  # `kernel` is a property of `keras.layers.Conv2D`

    def whole_kernel(self):
        kernel = self.weight_quantizer.unpacked(self.compute_dtype)
        return ops.reshape(kernel, self._kernel_shape)

    def rounded(self, kernel):
        return kernel

    def start_weight_quantizer(self) -> None:
        """Does nothing: the levels are stored."""

    def save_own_variables(self, store):
        # Keras's convolutions store their kernel, too.
        if self.use_bias:
            store["0"] = self.bias

    def load_own_variables(self, store):
        if self.use_bias:
            self.bias.assign(store["0"])


@keras.saving.register_keras_serializable("keras_resadapt")
class PackedConv2D(PackedConvolution, QuantizedConv2D):
    """`QuantizedConv2D` with a packed kernel; see `PackedConvolution`."""


@keras.saving.register_keras_serializable("keras_resadapt")
class PackedDepthwiseConv2D(PackedConvolution, QuantizedDepthwiseConv2D):
    """`QuantizedDepthwiseConv2D` with a packed kernel."""

    def forget_kernel(self) -> None:
        self.kernel = None


@keras.saving.register_keras_serializable("keras_resadapt")
class PackedSlimmableConv2D(PackedConvolution, QuantizedSlimmableConv2D):
    """`QuantizedSlimmableConv2D` with a packed kernel."""


@keras.saving.register_keras_serializable("keras_resadapt")
class PackedSlimmableDepthwiseConv2D(
    PackedConvolution, QuantizedSlimmableDepthwiseConv2D
):
    """`QuantizedSlimmableDepthwiseConv2D` with a packed kernel."""

    def forget_kernel(self) -> None:
        self.kernel = None


# The packed form of each float layer
PACKED_LAYERS = {
    Conv2D: PackedConv2D,
    DepthwiseConv2D: PackedDepthwiseConv2D,
    SlimmableConv2D: PackedSlimmableConv2D,
    SlimmableDepthwiseConv2D: PackedSlimmableDepthwiseConv2D,
}
