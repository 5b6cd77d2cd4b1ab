"""Metrics for each output of a network."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras

from keras_resadapt.tasks import Task


def metrics_per_output(
    metrics: Any, task: Task, names: Sequence[str], headline: str
) -> dict[str, list] | None:
    """Returns metrics that are independent of each other, by output.

    Args:
        metrics: What the user passed to `compile`: None, one metric, a list, or a
            dict by output, which is returned as it is.
        task: The task, which adapts the metrics to its outputs.
        names: The names of the outputs.
        headline: The output that gets the instances which the user passed.

    Raises:
        ValueError: A metric that cannot be copied.
    """
    if isinstance(metrics, dict):
        return metrics
    if metrics is not None and not isinstance(metrics, (list, tuple)):
        metrics = [metrics]
    per_output = {
        name: task.make_metrics(
            metrics and [_of_output(metric, name == headline) for metric in metrics]
        )
        for name in names
    }
    return per_output if any(per_output.values()) else None


def _of_output(metric, is_headline: bool):
    if _is_factory(metric):
        return metric()
    if is_headline or not isinstance(metric, keras.metrics.Metric):
        return metric
    if type(metric) is keras.metrics.MeanMetricWrapper:
        # Its configuration can only name a registered function, and it has no
        # public way to the function itself.
        return keras.metrics.MeanMetricWrapper(
            metric._fn, name=metric.name, dtype=metric.dtype, **metric._fn_kwargs
        )
    try:
        return type(metric).from_config(metric.get_config())
    except Exception as error:
        raise ValueError(
            f"`metrics` holds {metric.name!r}, of which each operating point needs a "
            "copy, and its configuration does not make one: pass its class, or a "
            f"function without arguments that returns a new one. It failed: {error}"
        ) from error


def _is_factory(metric) -> bool:
    """Whether it makes metrics: a class, or a function that takes no arguments."""
    if isinstance(metric, type):
        return issubclass(metric, keras.metrics.Metric)
    if isinstance(metric, keras.metrics.Metric) or not callable(metric):
        return False
    try:
        return not inspect.signature(metric).parameters
    except ValueError:
        return False
