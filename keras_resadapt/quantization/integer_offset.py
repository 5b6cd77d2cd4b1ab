"""Offsets as integer arithmetic represents them."""

from keras import ops


def integer_offset(offset, input_step, weight_step, scale=None):
    """Rounds the offset of a quantized product to what integers can add.

    A product of integers is a multiple of the step of the inputs times the
    step of the weights (times the scale folded into the weights). What is
    added to it must be such a multiple as well, which LiteRT stores in 32
    bits. The change is tiny. But where it moves a sum across a threshold of
    the next quantizer, the difference grows from layer to layer, up to the
    size of the quantization noise. So the network rounds as the integers do.
    Gradients pass straight through.

    Args:
        offset: Vector with one entry per output channel.
        input_step: Scalar; 0 for a range that is not known yet.
        weight_step: Scalar, or a vector like `offset`.
        scale: Vector like `offset`; None for 1.
    """
    offset = ops.cast(offset, "float32")
    step = input_step * weight_step
    if scale is not None:
        step = step * ops.abs(ops.cast(scale, "float32"))
    rounded = ops.round(offset / ops.where(step > 0, step, 1.0)) * step
    rounded = ops.where(step > 0, rounded, offset)
    return offset + ops.stop_gradient(rounded - offset)


def adds_integers(layer, point) -> bool:
    """Returns whether a layer's products are multiples of a known step.

    Args:
        layer: A quantized layer.
        point: The operating point of the call; None outside a network.
    """
    return (
        point is not None
        and layer.input_step is not None
        and hasattr(layer.weight_quantizer, "step")
    )
