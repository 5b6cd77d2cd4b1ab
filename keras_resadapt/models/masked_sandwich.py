"""The sandwich rule in one program of static shapes, for XLA (TensorFlow and JAX)."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_resadapt.layers import resize_to_corners
from keras_resadapt.layers.replicas import num_replicas
from keras_resadapt.models.philox import stateless_uniform
from keras_resadapt.models.sandwich import gradients_of_loss
from keras_resadapt.points import DrawnWidth, MaskedPoint, OperatingPoint


def add_sub_networks(
    model, images, step, run: Callable, loss, gradients: list, state: list
) -> tuple[Any, list, list]:
    """Adds the losses and gradients of the drawn sub-networks (equations 3 and 4).

    The smallest width is known and runs as slices. The drawn widths run in a loop
    over masked networks. A switch chooses the resolution, so that the program holds
    each network once per resolution.

    Args:
        model: A `MutualNet`.
        images: Tensor at the largest resolution.
        step: The number of the training step, a scalar tensor.
        run: A function of images, a point and a state that returns the loss, its
            gradients and the new state.
        loss, gradients, state: Those of the full network. `state` is a list of the
            tensors that a pass changes.

    Returns:
        The total loss, the total gradients and the last state.
    """
    smallest, largest = model.width_range
    resolutions = model.train_resolutions
    if smallest == largest and len(resolutions) == 1:
        return loss, gradients, state
    count = model.num_random_widths + 1
    widths, places = draw_widths_and_places(
        step, model.seed, model.width_range, len(resolutions), count
    )

    def adding(resolution, point_at):
        def add(width, loss, gradients, state):
            view = resize_to_corners(images, model.scaled_size(images, resolution))
            more_loss, more, state = run(view, point_at(resolution, width), state)
            gradients = [a + b for a, b in zip(gradients, more, strict=True)]
            return loss + more_loss, gradients, state

        return add

    def narrowest(resolution, _):
        return OperatingPoint(resolution, smallest)

    def masked(resolution, width):
        return MaskedPoint(resolution, DrawnWidth(width))

    def branches(point_at):
        return [adding(resolution, point_at) for resolution in resolutions]

    totals = loss, gradients, state
    totals = ops.switch(places[0], branches(narrowest), widths[0], *totals)
    if count == 1:
        return totals

    def body(i, totals):
        return ops.switch(places[i], branches(masked), widths[i], *totals)

    return ops.fori_loop(1, count, body, totals)


def draw_widths_and_places(
    step, seed: int, width_range, num_resolutions: int, count: int
) -> tuple:
    """Draws the sub-networks that `draw_sub_networks` draws.

    Args:
        step, seed, width_range: As for `draw_sub_networks`.
        num_resolutions: Number of resolutions to draw from.
        count: Number of sub-networks.

    Returns:
        A vector of widths, which is float64 on TensorFlow and float32 on JAX, and an
        int32 vector of the places of resolutions in their list.
    """
    smallest, largest = width_range
    dtype = "float64" if keras.backend.backend() == "tensorflow" else "float32"
    uniform = stateless_uniform(2 * count, seed, step, dtype)
    widths = smallest + uniform[:count] * (largest - smallest)
    return widths, ops.cast(uniform[count:] * num_resolutions, "int32")


def tensorflow_gradients(model, images, y, sample_weight, size=None):
    """Returns the loss of a training step and its gradient, on TensorFlow.

    Arguments and results are those of `sandwich_gradients`, without sub-networks,
    which are drawn here.
    """
    size = size or tuple(images.shape[1:3])

    def full_loss(outputs):
        y_pred = {model.full_point.name: outputs}
        return model.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)

    def sub_loss(outputs):
        return model.sub_network_loss(teacher, outputs, y, sample_weight)

    def run(images, point, state):
        loss, _, gradients = gradients_of_loss(model, images, point, size, sub_loss)
        return loss, gradients, state

    loss, outputs, gradients = gradients_of_loss(
        model, images, model.full_point, size, full_loss
    )
    teacher = keras.tree.map_structure(ops.stop_gradient, outputs)
    step = model.optimizer.iterations
    loss, gradients, _ = add_sub_networks(model, images, step, run, loss, gradients, [])
    return loss * num_replicas(), outputs, gradients


def jax_train_step(model, state: tuple, x, y, sample_weight) -> tuple:
    """Runs one training step on JAX.

    Args:
        model: A `MutualNet`.
        state: The values of the trainable, other, optimizer's and metrics' variables.
        x: What `prepare_inputs` made of the images.
        y, sample_weight: Targets and weights, as `fit` passes them.

    Returns:
        The logs and the new state.
    """
    import jax

    trainable, others, optimizer_variables, metrics_variables = state
    (images,), _, size = model.split_targets(x)
    size = size or tuple(images.shape[1:3])
    full = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)
    (_, (loss, y_pred, others, metrics_variables)), gradients = full(
        trainable,
        others,
        metrics_variables,
        x,
        y,
        sample_weight,
        training=True,
        optimizer_variables=optimizer_variables,
    )
    teacher = keras.tree.map_structure(
        jax.lax.stop_gradient, y_pred[model.full_point.name]
    )
    of_optimizer = list(zip(model.optimizer.variables, optimizer_variables))

    def run(images, point, others):
        def sub_loss(trainable, others):
            outputs, others = model.stateless_call(
                trainable, others, images, point=point, training=True
            )
            outputs = model.task.align(outputs, size)
            loss = model.sub_network_loss(teacher, outputs, y, sample_weight)
            with keras.StatelessScope(of_optimizer):
                scaled = model.optimizer.scale_loss(loss)
            return scaled, (loss, others)

        gradient = jax.value_and_grad(sub_loss, has_aux=True)
        (_, (loss, others)), gradients = gradient(trainable, others)
        return loss, gradients, others

    with keras.StatelessScope(of_optimizer):
        step = model.optimizer.iterations.value
    loss, gradients, others = add_sub_networks(
        model, images, step, run, loss, gradients, others
    )
    trainable, optimizer_variables = model.optimizer.stateless_apply(
        optimizer_variables, gradients, trainable
    )
    # Keras's own step ends with this method.
    logs, metrics_variables = model._update_metrics_variables(
        metrics_variables, loss, images, y, y_pred, sample_weight
    )
    return logs, (trainable, others, optimizer_variables, metrics_variables)
