"""Convolutions that pad the same number of pixels on every side."""

import keras
from keras import ops

from keras_resadapt.layers.integer_offset import integer_offset


def _symmetric_pad(inputs, kernel_size, dilation_rate):
    pads = [d * (k - 1) // 2 for k, d in zip(kernel_size, dilation_rate)]
    if not any(pads):
        return inputs
    return ops.pad(inputs, [(0, 0), *((p, p) for p in pads), (0, 0)])


def _append_zeros(x, count, axis):
    """`count` more channels."""
    # Not `pad`, which oneDNN's graph pass mistakes for spatial padding.
    shape = ops.shape(x)
    zeros = ops.zeros((*shape[:axis], count, *shape[axis + 1 :]), x.dtype)
    return ops.concatenate([x, zeros], axis=axis)


def quantizer_config(layer, *kinds) -> dict:
    """The entries of `get_config` that say how a layer is quantized."""
    return {
        f"{kind}_quantizer": keras.saving.serialize_keras_object(
            getattr(layer, f"{kind}_quantizer")
        )
        for kind in kinds
    }


def with_quantizers(config: dict) -> dict:
    """A configuration with these entries made layers again."""
    return {
        key: keras.saving.deserialize_keras_object(value)
        if key.endswith("_quantizer")
        else value
        for key, value in config.items()
    }


def adds_integers(layer, point) -> bool:
    """Whether a layer's products are multiples of a known step."""
    return (
        point is not None
        and layer.input_step is not None
        and hasattr(layer.weight_quantizer, "step")
    )


class _SymmetricPadding:
    """Pads `(k - 1) // 2` on every side of a strided convolution.

    Keras's `padding="same"` pads a stride-2 convolution of an even size at
    the bottom and the right only, and so computes another function than the
    published networks. Without a stride the two are the same, and "same" needs
    no copy of the input.
    """

    def __init__(
        self,
        *args,
        weight_quantizer: keras.layers.Layer | None = None,
        input_quantizer: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer
        self.input_step = None  # from a point to it, known once it was called
        if weight_quantizer is not None or input_quantizer is not None:
            self.depends_on = (*getattr(self, "depends_on", ()), "point")
        if self.data_format != "channels_last":
            raise ValueError(
                "Only `data_format='channels_last'` is supported. "
                f"Received: data_format={self.data_format!r}"
            )
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(
                "`kernel_size` must be odd to be padded symmetrically. "
                f"Received: kernel_size={self.kernel_size}"
            )
        self.padding = "same" if set(self.strides) == {1} else "valid"

    def build(self, input_shape):
        super().build(input_shape)
        self._kernel_shape = tuple(self.kernel.shape)
        if self.weight_quantizer is not None:
            self.weight_quantizer.build(self._shape_output_last())
        if self.is_packed:
            self._drop_kernel()
        if self.input_quantizer is not None:
            self.input_quantizer.build(input_shape)

    def call(self, inputs, scale=None, offset=None, point=None):
        bias = self.bias if self.use_bias else None
        return self.convolve(inputs, self.whole_kernel(), bias, scale, offset, point)

    def convolve(self, inputs, kernel, bias=None, scale=None, offset=None, point=None):
        """`scale * convolution(inputs) + offset`, the scale folded into the
        kernel; both are of a normalization after it, in inference."""
        if self.input_quantizer is not None:
            inputs = point.call(self.input_quantizer, inputs)
        if self.padding == "valid":
            inputs = _symmetric_pad(inputs, self.kernel_size, self.dilation_rate)
        if bias is not None:
            offset = bias if scale is None else offset + bias * scale
        if scale is not None:
            scale = ops.cast(scale, self.compute_dtype)
        folded = scale is not None and self.weight_quantizer is None
        if folded:
            kernel = kernel * self._kernel_scale(scale)
        outputs = self.convolution_op(inputs, kernel)
        if scale is not None and not folded:  # all points share the kernel
            outputs = outputs * scale
        if scale is not None and adds_integers(self, point):
            offset = integer_offset(
                offset,
                self.input_step(point),
                self.weight_quantizer.step(ops.shape(scale)[-1]),
                scale,
            )
        if offset is not None:
            outputs = outputs + ops.cast(offset, self.compute_dtype)
        return self.activation(outputs)

    def compute_output_shape(self, input_shape):
        batch, *spatial, _ = input_shape
        spatial = [
            None if size is None else (size - 1) // stride + 1
            for size, stride in zip(spatial, self.strides)
        ]
        return (batch, *spatial, self._output_channels(input_shape))

    def start_weight_quantizer(self) -> None:
        """Sets the levels of the weights for training from the first."""
        if not self.is_packed:
            self.weight_quantizer.start(self.output_last(self.kernel))

    def fit_weight_quantizer(self) -> None:
        """Fits the levels of the weights to the weights as they are."""
        self.weight_quantizer.fit(self.output_last(self.kernel))

    @property
    def is_packed(self) -> bool:
        """Whether the quantizer holds the kernel itself, in few bits."""
        return getattr(self.weight_quantizer, "holds_kernel", False)

    def whole_kernel(self):
        """The kernel at full width."""
        if self.is_packed:
            kernel = self.weight_quantizer.unpacked(self.compute_dtype)
            return ops.reshape(kernel, self._kernel_shape)
        return self.kernel

    def _drop_kernel(self) -> None:
        # As Keras itself does where a built layer changes its variables.
        self._tracker.unlock()
        self._untrack_variable(self.kernel)
        self._tracker.lock()
        self._kernel = None

    def save_own_variables(self, store):
        if not self.is_packed:
            super().save_own_variables(store)
        elif self.use_bias:
            store["0"] = self.bias

    def load_own_variables(self, store):
        if not self.is_packed:
            super().load_own_variables(store)
        elif self.use_bias:
            self.bias.assign(store["0"])

    def rounded(self, kernel):
        """The kernel, or the part of it that is given, in few values."""
        if self.weight_quantizer is None or self.is_packed:
            return kernel
        quantized = self.weight_quantizer(
            self.output_last(kernel), self.output_last(self.kernel)
        )
        return ops.reshape(quantized, ops.shape(kernel))

    def output_last(self, kernel):
        """A kernel with all output channels in the last axis."""
        return kernel

    def _shape_output_last(self) -> tuple[int, ...]:
        return self._kernel_shape

    def compute_output_spec(self, inputs, scale=None, offset=None, point=None):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self):
        config = super().get_config()
        del config["padding"]  # follows from the strides
        return {**config, **quantizer_config(self, "weight", "input")}

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_quantizers(config))


@keras.saving.register_keras_serializable("keras_resadapt")
class Conv2D(_SymmetricPadding, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with symmetric padding, for odd kernels.

    The output is `(size - 1) // stride + 1` pixels high and wide.

    Args:
        filters: Number of output channels.
        kernel_size: Odd integer, or a pair of them.
        strides: Integer, or a pair of them.
        weight_quantizer: A layer that rounds kernels to few values, called
            with what is used of the kernel and the whole of it, the output
            channels last; None for none.
        input_quantizer: Likewise for what comes in, with the parts of the
            operating point in its `depends_on`.
        **kwargs: As for `keras.layers.Conv2D`, without `padding`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        scale, offset: Of a normalization after it, vectors.
        point: The operating point, where there is an input quantizer.
    """

    def _kernel_scale(self, scale):
        return scale

    def convolution_op(self, inputs, kernel):
        if self._is_matrix_product(kernel):
            *batch, _ = ops.shape(inputs)
            in_channels, out_channels = ops.shape(kernel)[2:]
            outputs = ops.matmul(
                ops.reshape(inputs, (-1, in_channels)),
                ops.reshape(kernel, (in_channels, out_channels)),
            )
            return ops.reshape(outputs, (*batch, out_channels))
        missing = self._missing_channels(inputs)
        if missing is not None and keras.backend.backend() == "tensorflow":
            # oneDNN's gradient of a convolution over 4 to 7 channels writes
            # past its buffers on processors with AVX2 (TensorFlow 2.21).
            inputs = _append_zeros(inputs, missing, axis=3)
            kernel = _append_zeros(kernel, missing, axis=2)
        return super().convolution_op(inputs, self.rounded(kernel))

    def _missing_channels(self, inputs):
        """How many to add for oneDNN, None for none."""
        channels = inputs.shape[-1]
        return 8 - channels if channels in range(4, 8) else None

    def _is_matrix_product(self, kernel) -> bool:
        # On a CPU a 1x1 convolution takes up to a third longer than this.
        return (
            kernel.shape[0] == kernel.shape[1] == 1
            and set(self.strides) == {1}
            and self.groups == 1
            and self.weight_quantizer is None
            and keras.backend.backend() == "tensorflow"
        )

    def _output_channels(self, input_shape):
        return self.filters


@keras.saving.register_keras_serializable("keras_resadapt")
class DepthwiseConv2D(_SymmetricPadding, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with symmetric padding, for odd kernels.

    Args:
        kernel_size: Odd integer, or a pair of them.
        strides: Integer.
        weight_quantizer, input_quantizer: As for `Conv2D`.
        **kwargs: As for `keras.layers.DepthwiseConv2D`, without `padding`.
    """

    def convolution_op(self, inputs, kernel):
        return ops.depthwise_conv(
            inputs,
            self.rounded(kernel),
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def _kernel_scale(self, scale):
        return ops.reshape(scale, (-1, self.depth_multiplier))

    def output_last(self, kernel):
        return ops.reshape(kernel, (*self.kernel_size, 1, -1))

    def _shape_output_last(self):
        height, width, channels, multiplier = self._kernel_shape
        return (height, width, 1, channels * multiplier)

    def _drop_kernel(self):
        super()._drop_kernel()
        self.kernel = None

    def _output_channels(self, input_shape):
        return input_shape[-1] * self.depth_multiplier
