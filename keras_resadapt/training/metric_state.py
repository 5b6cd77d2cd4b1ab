"""The values of a model's metrics within an epoch, for each replica."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_resadapt.training.workers import gather_from_workers


def read_metric_state(model: keras.Model) -> list[np.ndarray]:
    """Returns the values of a model's metric variables.

    A replica sums metrics over its own images. A training that continued from the
    sum over all replicas would add in another order, and round differently.
    Therefore, the values of each replica are returned.

    All workers must call this function together.

    Returns:
        One array for each variable, of shape (replicas, *shape of the variable).
    """
    parts = [_local_parts(model, variable) for variable in model.metrics_variables]
    local = [
        [replica, [np.array(part[i]).tolist() for part in parts]]
        for i, replica in enumerate(_local_replicas(model))
    ]
    replicas = sorted(sum(gather_from_workers(local), []))
    return [
        np.array([values[i] for _, values in replicas], np.array(part[0]).dtype)
        for i, part in enumerate(parts)
    ]


def write_metric_state(model: keras.Model, state: Sequence[np.ndarray]) -> None:
    """Assigns the values that `read_metric_state` returned.

    If the number of replicas has changed, the first replica continues from the sum
    over all replicas.

    Args:
        model: A model with the same metrics.
        state: One array for each metric variable.

    Raises:
        ValueError: If the model has other metrics.
    """
    variables = model.metrics_variables
    shapes = [tuple(values.shape[1:]) for values in state]
    expected = [tuple(variable.shape) for variable in variables]
    if shapes != expected:
        raise ValueError(
            "The model must have the metrics of the checkpoint, whose variables have "
            f"the shapes {shapes}. Received: variables of the shapes {expected}"
        )
    for variable, values in zip(variables, state):
        if len(values) != _num_replicas(model):
            total = values.sum(axis=0, keepdims=True, dtype=values.dtype)
            values = np.zeros((_num_replicas(model), *total.shape[1:]), total.dtype)
            values[:1] = total
        for part, i in zip(_local_parts(model, variable), _local_replicas(model)):
            part.assign(values[i])


def _num_replicas(model: keras.Model) -> int:
    if keras.backend.backend() != "tensorflow":
        return 1
    return model.distribute_strategy.num_replicas_in_sync


def _local_parts(model: keras.Model, variable) -> tuple:
    """Returns the variables of this process's replicas."""
    if keras.backend.backend() != "tensorflow":
        return (variable,)
    return model.distribute_strategy.experimental_local_results(variable.value)


def _local_replicas(model: keras.Model) -> list[int]:
    """Returns the numbers of this process's replicas among all replicas."""
    if _num_replicas(model) == 1:
        return [0]
    import tensorflow as tf  # optional: JAX trains without it

    replicas: list[int] = []

    def note(context):
        replicas.append(context.replica_id_in_sync_group)
        return tf.constant(0)

    strategy = model.distribute_strategy
    strategy.experimental_distribute_values_from_function(note)
    return replicas
