"""The sandwich rule, one sub-network after the other (TensorFlow)."""

from keras import ops

from keras_resadapt.layers import resize_to_corners
from keras_resadapt.layers.batch_normalization import num_replicas
from keras_resadapt.points.operating_point import DrawnWidth


def draw_sub_networks(
    step, seed: int, width_range, resolutions, num_random_widths: int
) -> list[tuple]:
    """The sub-networks of a training step (MutualNet, section 3.2).

    Args:
        step: The step's number, a scalar tensor. The same step draws the same
            in every replica and after resuming.
        seed: Non-negative integer.
        width_range: Smallest and largest width.
        resolutions: To draw from, in pixels.
        num_random_widths: Uniform draws between the two.

    Returns:
        Pairs (width, resolution), the first of the smallest width; the other
        widths are `DrawnWidth`s, resolutions scalar tensors. An empty list for
        a network of one width and one resolution.
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


def sandwich_gradients(model, images, y, sample_weight, sub_networks):
    """The loss of a training step and its gradient (equations 2 to 4).

    Each sub-network starts when the gradient of the one before is there, so
    that the activations of one at a time are alive.

    Args:
        model: A `MutualNet`.
        images: Tensor at the largest resolution.
        y, sample_weight: As `fit` gives them.
        sub_networks: Pairs (operating point, resolution).

    Returns:
        The loss as one replica alone would have it, the full network's
        logits, and the gradient of the loss as the optimizer scales it, one
        tensor a trainable variable.
    """
    import tensorflow as tf

    variables = model.trainable_variables

    def run(images, point, loss_of):
        with tf.GradientTape() as tape:
            logits = model(images, point=point, training=True)
            loss = loss_of(logits)
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables, unconnected_gradients="zero")
        return loss, logits, gradients

    loss, full_logits, gradients = run(
        images,
        model.full_point,
        lambda logits: model.compute_loss(
            y=y,
            y_pred={model.full_point.name: logits},
            sample_weight=sample_weight,
        ),
    )
    teacher = tf.stop_gradient(full_logits)
    for point, resolution in sub_networks:
        with tf.control_dependencies(gradients):
            images = tf.identity(images)
        sub_loss, _, more = run(
            resize_to_corners(images, (resolution, resolution)),
            point,
            lambda logits: model.divergence(teacher, logits, sample_weight),
        )
        loss += sub_loss
        gradients = [a + b for a, b in zip(gradients, more)]
    # Keras's losses are divided by the number of replicas.
    return loss * num_replicas(), full_logits, gradients
