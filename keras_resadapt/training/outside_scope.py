"""Calls outside the scope of a strategy."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

from keras_resadapt.training.workers import num_workers


def call_outside_scope(function: Callable[[], Any]) -> Any:
    """Calls a function outside the scope of a strategy of several workers.

    Whenever Keras saves a model, it creates an optimizer for comparison, whose
    variables all workers would have to create together within the scope. TensorFlow
    holds scopes per thread. Therefore, the function is called in another thread, for
    which this one waits. Without several workers, it is called in this thread.

    Args:
        function: Takes no arguments.

    Returns:
        What the function returns.

    Raises:
        Exception: What the function raises.
    """
    if num_workers() == 1:
        return function()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
