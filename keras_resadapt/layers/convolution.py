"""Convolutions with symmetric padding that can take over a normalization."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.layers.few_channels import pad_channels, without_stride
from keras_resadapt.layers.folding import fold_bias
from keras_resadapt.layers.padding import SymmetricPadding
from keras_resadapt.number_checks import check_integer


class _Convolution(SymmetricPadding):
    """Calls `convolve` with the weights, and a normalization folded in."""

    def call(self, inputs, scale=None, offset=None):
        return self.convolve(inputs, *self.weights_for(inputs), scale, offset)

    def weights_for(self, inputs):
        """Returns the kernel and the bias (or None) for these inputs."""
        return self.whole_kernel(), self.bias if self.use_bias else None

    def whole_kernel(self):
        """Returns the kernel with all its channels."""
        return self.kernel

    def convolve(self, inputs, kernel, bias, scale, offset):
        """Returns `activation(scale * (convolution(inputs) + bias) + offset)`,
        with the scale folded into the kernel."""
        offset = fold_bias(bias, scale, offset)
        if scale is not None:
            scale = ops.cast(scale, self.compute_dtype)
            kernel = kernel * self.kernel_scale(scale)
        outputs = self.convolution_op(self.padded(inputs), kernel)
        if offset is not None:
            outputs = outputs + ops.cast(offset, self.compute_dtype)
        return self.activation(outputs)

    def kernel_scale(self, scale):
        """Returns a scale of the output channels in the shape of the kernel."""
        return scale


@keras.saving.register_keras_serializable("keras_resadapt")
class Conv2D(_Convolution, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with symmetric padding, for odd kernels.

    The output is `(size - 1) // stride + 1` pixels high and wide.

    Args:
        filters: Number of output channels.
        kernel_size: Odd integer, or a pair of them.
        strides: Positive integer, or a pair of them.
        dilation_rate: Positive integer, or a pair of them.
        groups: Number of groups of channels that are convolved separately.
        **kwargs: Further arguments of `keras.layers.Conv2D`. `padding` must be
            `"same"`, and `data_format` `"channels_last"`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        scale, offset: Vectors of a normalization after the convolution, one
            entry per output channel; None for no normalization.

    Raises:
        ValueError: For an even kernel, and for another padding or data format.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        **kwargs,
    ):
        super().__init__(
            filters=check_integer(filters, "filters"),
            kernel_size=kernel_size,
            strides=strides,
            dilation_rate=dilation_rate,
            groups=check_integer(groups, "groups"),
            **kwargs,
        )

    def convolution_op(self, inputs, kernel):
        if self.groups == 1:
            return self.convolve_group(inputs, kernel)
        # TensorFlow's grouped convolution has no gradient on a CPU.
        groups = zip(
            ops.split(inputs, self.groups, axis=-1),
            ops.split(kernel, self.groups, axis=-1),
        )
        outputs = [self.convolve_group(*group) for group in groups]
        return ops.concatenate(outputs, axis=-1)

    def convolve_group(self, inputs, kernel):
        """Returns the convolution of one group of channels."""
        inputs, strides = without_stride(inputs, self.kernel_size, self.strides)
        pointwise = self.kernel_size == (1, 1) and set(strides) == {1}
        if pointwise and keras.backend.backend() == "tensorflow":
            return matrix_product(inputs, kernel)
        return self.spatial_convolution(*self.pad_channels(inputs, kernel), strides)

    def spatial_convolution(self, inputs, kernel, strides):
        """Returns the backend's convolution."""
        return ops.conv(
            inputs,
            kernel,
            strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def pad_channels(self, inputs, kernel):
        """Appends zero channels where the backend needs them."""
        return pad_channels(inputs, kernel)

    def output_channels(self, in_channels):
        return self.filters


def matrix_product(inputs, kernel):
    """Returns a 1x1 convolution, as a matrix product.

    On a CPU, TensorFlow takes up to 1.5x the time for the convolution.

    Args:
        inputs: Tensor of shape (batch, height, width, channels).
        kernel: Tensor of shape (1, 1, channels, filters).
    """
    *batch, _ = ops.shape(inputs)
    in_channels, out_channels = ops.shape(kernel)[2:]
    outputs = ops.matmul(
        ops.reshape(inputs, (-1, in_channels)),
        ops.reshape(kernel, (in_channels, out_channels)),
    )
    return ops.reshape(outputs, (*batch, out_channels))


@keras.saving.register_keras_serializable("keras_resadapt")
class DepthwiseConv2D(_Convolution, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with symmetric padding, for odd kernels.

    Args:
        kernel_size: Odd integer, or a pair of them.
        strides: Positive integer.
        depth_multiplier: Output channels per input channel.
        dilation_rate: Positive integer.
        **kwargs: Further arguments of `keras.layers.DepthwiseConv2D`.
            `padding` must be `"same"`, and `data_format` `"channels_last"`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        scale, offset: As for `Conv2D`.

    Raises:
        ValueError: As for `Conv2D`.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        **kwargs,
    ):
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            depth_multiplier=check_integer(depth_multiplier, "depth_multiplier"),
            **kwargs,
        )

    def convolution_op(self, inputs, kernel):
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def kernel_scale(self, scale):
        return ops.reshape(scale, (-1, self.depth_multiplier))

    def output_channels(self, in_channels):
        return in_channels * self.depth_multiplier
