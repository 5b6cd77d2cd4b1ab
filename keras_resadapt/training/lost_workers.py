"""Errors of TensorFlow that report the loss of another worker."""

import contextlib
from collections.abc import Iterator

from keras_resadapt.training.workers import num_workers, worker_index

# What TensorFlow writes when the workers run different programs
_PROGRAM_ERRORS = (
    " expected type ",
    "hape mismatch",
    "different input shapes",
    "but that group has",
)
_LOST_WORKERS = (
    "Collective ops is aborted by",
    "oordination",
    "eartbeat",
    "incarnation",
)


class WorkerLostError(RuntimeError):
    """Another worker has ended, or has not responded within the time limit."""


@contextlib.contextmanager
def reporting_lost_workers() -> Iterator[None]:
    """Turns the errors of TensorFlow about other workers into a `WorkerLostError`.

    Raises:
        WorkerLostError: If another worker has ended, or has not responded within the
            time limit. This process cannot go on, and must be started again with all
            others.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if num_workers() == 1 or not is_about_workers(error):
            raise
        raise WorkerLostError(
            f"Worker {worker_index()} of {num_workers()} has lost another worker, "
            "which has ended or has not responded within the time limit. "
            f"TensorFlow's error: {_cause(error)}"
        ) from error


def is_about_workers(error: Exception) -> bool:
    """Returns whether an error of TensorFlow reports the loss of another worker.

    Operations of all workers also fail where the workers run different programs, for
    example with tensors of other shapes. Such an error is not about a lost worker,
    because it would occur again.

    Args:
        error: A `tf.errors.OpError`.
    """
    import tensorflow as tf

    text = str(error)
    if any(words in text for words in _PROGRAM_ERRORS):
        return False
    connection = (
        tf.errors.UnavailableError,
        tf.errors.DeadlineExceededError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
    )
    # Kinds of errors that have many causes
    other = (
        tf.errors.FailedPreconditionError,
        tf.errors.InternalError,
        tf.errors.UnknownError,
    )
    return isinstance(error, connection) or (
        isinstance(error, other) and any(words in text for words in _LOST_WORKERS)
    )


def _cause(error: Exception) -> str:
    """Returns the line of an error of TensorFlow that names its cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [
        line
        for line in lines
        if "aborted by:" in line or line.startswith("Collective has timed out")
    ]
    return (causes or lines or [type(error).__name__])[0]
