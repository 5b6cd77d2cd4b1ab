"""The sandwich rule over slices, one sub-network after the other (TensorFlow)."""

from collections.abc import Callable

import keras
from keras import ops

from keras_resadapt.layers import resize_to_corners
from keras_resadapt.layers.batch_normalization import num_replicas
from keras_resadapt.points import DrawnWidth


def draw_sub_networks(
    step, seed: int, width_range, resolutions, num_random_widths: int
) -> list[tuple]:
    """Draws the sub-networks of a training step (MutualNet, section 3.2).

    Args:
        step: The step's number, a scalar tensor. The same step draws the same
            sub-networks in every replica and after resuming.
        seed: Non-negative integer.
        width_range: Smallest and largest width.
        resolutions: The resolutions to draw from, in pixels.
        num_random_widths: Number of widths drawn uniformly from the range.

    Returns:
        Pairs (width, resolution). The first width is the smallest one, the others are
        `DrawnWidth`s; resolutions are scalar tensors. The list is empty for a network
        of one width and one resolution.
    """
    import tensorflow as tf

    smallest, largest = width_range
    if smallest == largest and len(resolutions) == 1:
        return []
    step = ops.cast(step, "int32")
    uniform = tf.random.stateless_uniform(
        (2, num_random_widths + 1), seed=(seed, step), dtype=tf.float64
    )
    widths = smallest + uniform[0] * (largest - smallest)
    place = tf.cast(uniform[1] * len(resolutions), tf.int32)
    sizes = tf.gather(tf.constant(resolutions, tf.int32), place)
    return [
        (smallest if i == 0 else DrawnWidth(widths[i]), sizes[i])
        for i in range(num_random_widths + 1)
    ]


def sandwich_gradients(model, images, y, sample_weight, sub_networks, size=None):
    """Returns the loss of a training step and its gradient (equations 2 to 4).

    Each sub-network starts when the gradient of the previous one has been
    computed, so that only one sub-network's activations are in memory at a time.

    Args:
        model: A `MutualNet`.
        images: Tensor at the largest resolution.
        y, sample_weight: Targets and weights, as `fit` passes them.
        sub_networks: Pairs (operating point, resolution).
        size: Height and width to align outputs to; by default those of the images.

    Returns:
        The loss as one replica alone would compute it, the full network's aligned
        outputs, and the gradient of the loss as the optimizer scales it, one tensor
        per trainable variable.
    """
    import tensorflow as tf

    size = size or tuple(images.shape[1:3])
    targets = y if model.task.takes_targets else None

    def full_loss(outputs):
        return model.compute_loss(
            y=y, y_pred={model.full_point.name: outputs}, sample_weight=sample_weight
        )

    loss, full_outputs, gradients = gradients_of_loss(
        model, images, model.full_point, size, full_loss, targets
    )
    teacher = keras.tree.map_structure(tf.stop_gradient, full_outputs)

    def sub_loss(outputs):
        return model.sub_network_loss(teacher, outputs, y, sample_weight)

    for point, resolution in sub_networks:
        with tf.control_dependencies(gradients):
            images = tf.identity(images)
        view, labels = model.resized(images, targets, resolution, resize_to_corners)
        loss_here, _, more = gradients_of_loss(
            model, view, point, size, sub_loss, labels
        )
        loss += loss_here
        gradients = [a + b for a, b in zip(gradients, more)]
    # Keras's losses are divided by the number of replicas.
    return loss * num_replicas(), full_outputs, gradients


def gradients_of_loss(
    model, images, point, size: tuple, loss_of: Callable, targets=None
) -> tuple:
    """Runs one network forward and backward, on TensorFlow.

    Args:
        model: A `MutualNet`.
        images: Tensor at the resolution of the network.
        point: The operating point.
        size: Height and width to align outputs to.
        loss_of: A function from the aligned outputs to the loss.
        targets: The targets of the images, for a task that `takes_targets`.

    Returns:
        The loss, the aligned outputs, and the gradient of the loss as the optimizer
        scales it, one tensor per trainable variable.
    """
    import tensorflow as tf

    inputs = images if targets is None else {"images": images, "targets": targets}
    # TensorFlow's variables: it makes no zero gradients for those of Keras.
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = model.task.align(model(inputs, point=point, training=True), size)
        loss = loss_of(outputs)
        scaled = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, variables, unconnected_gradients="zero")
    return loss, outputs, gradients
