"""The head that classifies and moves boxes."""

import keras
from keras import ops

from keras_resadapt.heads.rpn import small_normal
from keras_resadapt.layers.block import Block, LayerSet

# Uniform with limits of +- 1 / sqrt(fan-in)
_KERNEL = keras.initializers.VarianceScaling(
    1 / 3, mode="fan_in", distribution="uniform"
)


class BoxHead(Block):
    """Two dense layers, and the classes and deltas of boxes.

    Args:
        num_classes: Number of classes, without the background.
        units: Number of outputs of each hidden layer.
        layers: The layers that it is made of.

    Call arguments:
        inputs: Features of boxes, of shape (boxes, size, size, channels).
        point: The operating point.

    Returns:
        float32 logits of shape (boxes, num_classes + 1), the background first; and
        the deltas of each class, float32 of shape (boxes, num_classes + 1, 4).

    Reference:
        Feature Pyramid Networks for Object Detection, section 4.2
        (https://arxiv.org/abs/1612.03144).
    """

    def __init__(
        self,
        num_classes: int,
        units: int = 1024,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)

        def dense(units, kernel_initializer, name):
            return layers.dense(units, kernel_initializer=kernel_initializer, name=name)

        self.hidden = [dense(units, _KERNEL.clone(), f"hidden{i}") for i in (1, 2)]
        self.acts = [layers.activation("relu", name=f"act{i}") for i in (1, 2)]
        self.classes = dense(num_classes + 1, small_normal(1024), "classes")
        self.deltas = dense(4 * (num_classes + 1), small_normal(1024, 1e-3), "deltas")

    def call(self, inputs, point, training=None):
        shape = ops.shape(inputs)
        # All sizes but the number of boxes are known.
        x = ops.reshape(inputs, (shape[0], shape[1] * shape[2] * shape[3]))
        for hidden, act in zip(self.hidden, self.acts):
            x = point.call(act, point.call(hidden, x))
        logits = ops.cast(point.call(self.classes, x), "float32")
        deltas = ops.cast(point.call(self.deltas, x), "float32")
        return logits, ops.reshape(deltas, (shape[0], -1, 4))
