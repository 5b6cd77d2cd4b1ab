"""Convolutions with quantized weights."""

import keras
from keras import ops

from keras_resadapt.layers.convolution import Conv2D, DepthwiseConv2D
from keras_resadapt.layers.few_channels import without_stride
from keras_resadapt.layers.folding import fold_bias
from keras_resadapt.layers.slimmable import SlimmableConv2D, SlimmableDepthwiseConv2D
from keras_resadapt.quantization.integer_offset import adds_integers, integer_offset
from keras_resadapt.quantization.quantizers import (
    WeightQuantizer,
    quantizer_config,
    with_quantizers,
)


class QuantizedConvolution:
    """A convolution layer that rounds its kernel, and maybe its inputs.

    A normalization after it is not folded into the kernel but multiplies the
    outputs, so that all operating points share the rounded kernel.

    Args:
        weight_quantizer: The quantizer of the kernel.
        input_quantizer: The quantizer of the inputs, an `ActivationQuantizer`
            or a layer that holds one state per operating point; None for
            inputs that are not rounded here.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        scale, offset: As for `layers.Conv2D`.
        point: The operating point; needed by input quantizers and slimmable
            layers.

    Attributes:
        input_step: Function from an operating point to the distance between
            the levels of the inputs; None where they have no such distance.
    """

    depends_on = ("point",)
    is_packed = False
    kernel: keras.Variable

    def __init__(
        self,
        *args,
        weight_quantizer: WeightQuantizer,
        input_quantizer: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer
        self.input_step = None

    def build(self, input_shape):
        super().build(input_shape)
        self.weight_quantizer.build(self.shape_output_last())
        if self.input_quantizer is not None:
            self.input_quantizer.build(input_shape)

    def call(self, inputs, scale=None, offset=None, point=None):
        if self.input_quantizer is not None:
            inputs = point.call(self.input_quantizer, inputs)
        kernel, bias = self.weights_at(inputs, point)
        offset = fold_bias(bias, scale, offset)
        outputs = self.convolution_op(self.padded(inputs), kernel)
        if scale is not None:
            scale = ops.cast(scale, self.compute_dtype)
            outputs = outputs * scale
            if adds_integers(self, point):
                channels = ops.shape(scale)[-1]
                offset = integer_offset(
                    offset,
                    self.input_step(point),
                    self.weight_quantizer.step(channels),
                    scale,
                )
        if offset is not None:
            outputs = outputs + ops.cast(offset, self.compute_dtype)
        return self.activation(outputs)

    def weights_at(self, inputs, point):
        """Returns the kernel and the bias (or None) at an operating point."""
        return self.weights_for(inputs)

    def compute_output_spec(self, inputs, scale=None, offset=None, point=None):
        return super().compute_output_spec(inputs)

    def rounded(self, kernel):
        """Returns the kernel, or the given part of it, with rounded values."""
        quantized = self.weight_quantizer(
            self.output_last(kernel), self.output_last(self.kernel)
        )
        return ops.reshape(quantized, ops.shape(kernel))

    def start_weight_quantizer(self) -> None:
        """Sets the levels of the weights for training from scratch."""
        self.weight_quantizer.start(self.output_last(self.kernel))

    def fit_weight_quantizer(self) -> None:
        """Fits the levels of the weights to their current values."""
        self.weight_quantizer.fit(self.output_last(self.kernel))

    def output_last(self, kernel):
        """Returns a kernel with all output channels in the last axis."""
        return kernel

    def shape_output_last(self) -> tuple[int, ...]:
        """Returns the shape of the kernel with all output channels last."""
        return tuple(self.kernel.shape)

    def get_config(self):
        return {
            **super().get_config(),
            **quantizer_config(self, "weight_quantizer", "input_quantizer"),
        }

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_quantizers(config))


class _SpatialKernel(QuantizedConvolution):
    """Rounds the kernel of a `Conv2D` right before the convolution."""

    def convolution_op(self, inputs, kernel):
        if self.groups > 1:
            kernel = self.rounded(kernel)
        return super().convolution_op(inputs, kernel)

    def convolve_group(self, inputs, kernel):
        # Never a matrix product: LiteRT's has no scale per output channel.
        inputs, strides = without_stride(inputs, self.kernel_size, self.strides)
        inputs, kernel = self.pad_channels(inputs, kernel)
        if self.groups == 1:  # last, or LiteRT does not recognize it
            kernel = self.rounded(kernel)
        return self.spatial_convolution(inputs, kernel, strides)


class _DepthwiseKernel(QuantizedConvolution):
    """Rounds the kernel of a `DepthwiseConv2D`, with its channels last."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, self.rounded(kernel))

    def output_last(self, kernel):
        return ops.reshape(kernel, (*self.kernel_size, 1, -1))

    def shape_output_last(self):
        height, width, channels, multiplier = self.kernel.shape
        return (height, width, 1, channels * multiplier)


@keras.saving.register_keras_serializable("keras_resadapt")
class QuantizedConv2D(_SpatialKernel, Conv2D):
    """`layers.Conv2D` with a quantized kernel; see `QuantizedConvolution`."""


@keras.saving.register_keras_serializable("keras_resadapt")
class QuantizedDepthwiseConv2D(_DepthwiseKernel, DepthwiseConv2D):
    """`layers.DepthwiseConv2D` with a quantized kernel."""


@keras.saving.register_keras_serializable("keras_resadapt")
class QuantizedSlimmableConv2D(_SpatialKernel, SlimmableConv2D):
    """`layers.SlimmableConv2D` with a quantized kernel."""

    def weights_at(self, inputs, point):
        return self.weights_for(inputs, point.width)

    def compute_output_spec(self, inputs, scale=None, offset=None, point=None):
        return SlimmableConv2D.compute_output_spec(self, inputs, point.width)


@keras.saving.register_keras_serializable("keras_resadapt")
class QuantizedSlimmableDepthwiseConv2D(_DepthwiseKernel, SlimmableDepthwiseConv2D):
    """`layers.SlimmableDepthwiseConv2D` with a quantized kernel."""
