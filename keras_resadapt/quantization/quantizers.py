"""What every quantizer is: a layer that rounds a tensor to few values."""

import contextlib
import contextvars

import keras
from keras import ops

# What the kernels of this pass are rounded to, by quantizer and shape
_rounded_kernels = contextvars.ContextVar("rounded_kernels", default=None)


@contextlib.contextmanager
def rounding_kernels_once():
    """Within, a kernel that several branches share is rounded once, and its
    levels are updated once.

    For branches of one pass whose gradients are taken together.
    """
    token = _rounded_kernels.set({})
    try:
        yield
    finally:
        _rounded_kernels.reset(token)


class WeightQuantizer(keras.layers.Layer):
    """Rounds kernels, whose last axis are the output channels.

    A subclass defines `train`, `rounded`, `start` and `fit`.

    Call arguments:
        kernel: The part of a kernel that is used: the first of its output
            channels, any of its inputs.
        whole: The whole kernel.
        training: Update the levels, from the whole kernel, where all output
            channels are used: of the widths that a slimmable network runs in
            a step, once. A layer with `trainable=False` never does.
    """

    def call(self, kernel, whole, training=None):
        known = _rounded_kernels.get()
        key = (id(self), kernel.shape)
        if known is not None and key in known:
            return known[key]
        kernel = ops.cast(kernel, "float32")
        all_channels = None not in kernel.shape and kernel.shape[-1] == whole.shape[-1]
        if training and self.trainable and all_channels:
            outputs = self.train(kernel, ops.cast(whole, "float32"))
        else:
            outputs = self.rounded(kernel)
        outputs = ops.cast(outputs, self.compute_dtype)
        if known is not None:
            known[key] = outputs
        return outputs

    def train(self, kernel, whole):
        """Rounds a float32 kernel, padded or not, and updates the levels."""
        raise NotImplementedError

    def rounded(self, kernel):
        """The float32 kernel, or the first of its channels, rounded."""
        raise NotImplementedError

    def start(self, kernel) -> None:
        """Sets the levels for training from a kernel's initial values."""
        raise NotImplementedError

    def fit(self, kernel) -> None:
        """Sets the levels to what suits a kernel that was trained in float."""
        raise NotImplementedError

    def compute_output_spec(self, kernel, whole, training=None):
        return keras.KerasTensor(kernel.shape, dtype=self.compute_dtype)


class ActivationQuantizer(keras.layers.Layer):
    """Rounds activations to levels that follow from its `state`.

    A subclass defines `new_state`, `train`, `estimate` and `rounded`. Other
    layers hold several states and use one quantizer for all.

    Call arguments:
        inputs: Float tensor of any shape.
        training: Update the state. A layer with `trainable=False` never does.

    Attributes:
        state: The variables that define the levels, a tuple.
        batches: Variable, the number of batches that it was made of; 0 before
            any training or calibration.
    """

    def build(self, input_shape=None):
        self.state = self.new_state(self, "")
        self.batches = new_counter(self, "batches")

    def call(self, inputs, training=None):
        x = ops.cast(inputs, "float32")
        if training and self.trainable:
            outputs = self.train(x)
            self.batches.assign_add(1)
        else:
            outputs = self.rounded(x, *self.state)
        return ops.cast(outputs, inputs.dtype)

    def new_state(self, owner: keras.layers.Layer, prefix: str) -> tuple:
        """Variables of another state, which belong to the layer `owner`."""
        raise NotImplementedError

    def train(self, inputs):
        """Rounds a training batch, and updates the state."""
        raise NotImplementedError

    def estimate(self, inputs, *state) -> tuple:
        """A state that fits a batch, searched for from another state."""
        raise NotImplementedError

    def fitted(self, inputs, *state) -> tuple:
        """The state that fits a batch best."""
        return self.estimate(inputs, *state)

    def rounded(self, inputs, *state):
        """The float32 inputs, rounded."""
        raise NotImplementedError

    def quantize_by_batch(self, inputs):
        """Rounds inputs to levels that fit themselves, and changes nothing."""
        x = ops.cast(inputs, "float32")
        state = self.estimate(x, *self.state)
        return ops.cast(self.rounded(x, *state), inputs.dtype)

    def calibrate(self, inputs, state=None, batches=None):
        """Makes the state the average over all batches since `batches` was 0.

        Args:
            inputs: A batch.
            state, batches: Variables; by default the layer's own.
        """
        state = self.state if state is None else state
        batches = self.batches if batches is None else batches
        count = ops.cast(batches, "float32")
        estimates = self.fitted(ops.cast(inputs, "float32"), *state)
        for variable, value in zip(state, estimates):
            variable.assign((variable * count + value) / (count + 1))
        batches.assign_add(1)

    def counter(self):
        """`batches`."""
        return self.batches

    def counters(self) -> list:
        """`batches`, in a list."""
        return [self.batches]

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


def new_counter(owner: keras.layers.Layer, name: str):
    """A variable that counts batches."""
    return owner.add_weight(
        shape=(),
        initializer="zeros",
        dtype="int32",
        trainable=False,
        aggregation="only_first_replica",
        name=name,
    )
