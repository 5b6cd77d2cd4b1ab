"""Offsets as integer arithmetic has them."""

from keras import ops


def integer_offset(offset, input_step, weight_step, scale=None):
    """The offset of a quantized product, rounded to what integers can add;
    gradients pass straight through.

    A product of integers is a multiple of the step of the inputs times the
    step of the weights (times the scale folded into them), and what is added
    to it must be one as well; LiteRT stores the multiple in 32 bits. That is
    a tiny change, but where it moves a sum across a threshold of the next
    quantizer, the difference grows from layer to layer, up to the size of the
    quantization noise. So the network itself rounds as the integers do.

    Args:
        offset: Vector, an entry an output channel.
        input_step: Scalar; 0 for a range that is not known yet.
        weight_step: Scalar, or a vector as `offset`.
        scale: Likewise a vector; None for 1.
    """
    offset = ops.cast(offset, "float32")
    step = input_step * weight_step
    if scale is not None:
        step = step * ops.abs(ops.cast(scale, "float32"))
    rounded = ops.round(offset / ops.where(step > 0, step, 1.0)) * step
    rounded = ops.where(step > 0, rounded, offset)
    return offset + ops.stop_gradient(rounded - offset)
