"""How the workers of a training end: messages and exit codes.

examples/cluster.md describes how a scheduler uses the codes.
"""

import contextlib
import faulthandler
import os
import sys
import traceback
from collections.abc import Callable, Iterator

import command_line
import keras
from absl import app

from keras_resadapt import training

# The exit code of a worker that has lost another one (EX_UNAVAILABLE of sysexits.h)
WORKER_LOST = 69

# The exit code of a worker that fails during the training (EX_CONFIG of sysexits.h).
# It is larger than WORKER_LOST and PREEMPTED, because `srun` returns the largest code.
WORKER_FAILED = 78

_HOW_TO_RESUME = (
    "If another worker has ended with an error of its own, correct it. Start all "
    "workers again with the same command and --resume to continue after the last "
    "checkpoint."
)


def connect(scope: Callable[[], contextlib.AbstractContextManager]) -> None:
    """Connects the workers, if there are several.

    It exits with the code `WORKER_LOST` if one of them does not come, and with the
    code `PREEMPTED` at a signal. TensorFlow replaces the handler of SIGTERM when it
    connects, so that the training needs a `Preemption` of its own.

    Args:
        scope: Returns the scope of the strategy.
    """
    try:
        with training.Preemption():
            scope()
    except TimeoutError as error:
        command_line.fail(str(error), WORKER_LOST)


class WorkerFailedError(RuntimeError):
    """An error of one of several workers, which is the `__cause__`."""


@contextlib.contextmanager
def failing_alone() -> Iterator[None]:
    """Turns the errors of one of several workers into a `WorkerFailedError`.

    The other workers wait for this one, and lose it.
    """
    try:
        with training.reporting_lost_workers():
            yield
    except training.WorkerLostError:
        raise
    except Exception as error:
        if training.num_workers() == 1:
            raise
        raise WorkerFailedError from error


@contextlib.contextmanager
def exiting_alone() -> Iterator[None]:
    """Exits where the workers of a training do not end together.

    The exit code is `WORKER_LOST` after a `WorkerLostError`, and `WORKER_FAILED` after
    a `WorkerFailedError`.
    """
    try:
        with training.reporting_lost_workers():
            yield
    except training.WorkerLostError as error:
        # On a line of its own, after the progress bar
        print(f"\nerror: {error} {_HOW_TO_RESUME}", file=sys.stderr)
        _exit(WORKER_LOST)
    except WorkerFailedError as failure:
        error = failure.__cause__
        if isinstance(error, app.UsageError) or command_line.is_user_error(error):
            print("error:", *str(error).split(), file=sys.stderr)
        else:
            traceback.print_exception(error)
        _exit(WORKER_FAILED)


@contextlib.contextmanager
def exiting_when_stuck(
    worker_timeout: float, data_service: str | None = None
) -> Iterator[list[keras.callbacks.Callback]]:
    """Exits with the code `WORKER_LOST` when this worker makes no progress.

    It may wait for other workers, or for a tf.data service that has ended, which
    TensorFlow would wait for without a limit and without listening to signals.

    Args:
        worker_timeout: How long a worker may make no progress, in seconds.
        data_service: The address of the tf.data service; None without one.

    Yields:
        The callbacks of `fit`.
    """
    others = []
    if training.num_workers() > 1:
        others.append("another worker")
    if data_service is not None:
        others.append(f"the data service {data_service}")
    if not others:
        yield []
        return

    def end():
        faulthandler.dump_traceback(sys.__stderr__)
        print(
            f"error: Worker {training.workers.worker_index()} has made no progress for "
            f"{worker_timeout:g} s. It is stuck, or waits for {' or '.join(others)}; "
            f"the traces above show where. {_HOW_TO_RESUME}",
            file=sys.stderr,
        )
        _exit(WORKER_LOST)

    with training.Watchdog(worker_timeout, end) as watchdog:
        yield [watchdog]


def _exit(code: int) -> None:
    """Ends the process at once.

    TensorFlow could not shut down operations that wait for another worker.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
