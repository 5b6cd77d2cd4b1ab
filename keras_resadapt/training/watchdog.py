"""The end of a worker that makes no progress."""

import contextlib
import threading
import time
from collections.abc import Callable

import keras


class Watchdog(keras.callbacks.Callback, contextlib.AbstractContextManager):
    """Calls a function when `fit` has made no progress for a time.

    With several workers, each step waits for all of them. If one is stuck, for example
    in a file system that does not respond, no worker receives an error. This callback
    ends both the stuck worker and those that wait for it:

        def end():
            faulthandler.dump_traceback()
            os._exit(69)

        with training.Watchdog(training.WORKER_TIMEOUT, end) as watchdog:
            model.fit(batches, callbacks=[watchdog])

    The time starts with the block, and again when a step, a validation step or an
    epoch begins or ends.

    Args:
        timeout_seconds: The time limit. With several workers, it must exceed the time
            in which one of them compiles, validates or saves while the others wait.
        on_timeout: Called without arguments in a thread of its own. The main thread
            is stuck, so that raising an error has no effect.

    Raises:
        ValueError: If `timeout_seconds` is not positive.
    """

    def __init__(self, timeout_seconds: float, on_timeout: Callable[[], None]):
        super().__init__()
        if not timeout_seconds > 0:
            raise ValueError(
                "`timeout_seconds` must be positive. "
                f"Received: timeout_seconds={timeout_seconds}"
            )
        self.timeout_seconds = timeout_seconds
        self.on_timeout = on_timeout
        self._ended = threading.Event()
        self._last = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self._ended.clear()
        self._last = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._ended.set()

    def _watch(self) -> None:
        left = self.timeout_seconds
        while not self._ended.wait(left):
            left = self._last + self.timeout_seconds - time.monotonic()
            if left <= 0:
                self.on_timeout()
                return

    def _note_progress(self, *arguments, **logs) -> None:
        self._last = time.monotonic()

    on_epoch_begin = on_epoch_end = _note_progress
    on_train_batch_begin = on_train_batch_end = _note_progress
    on_test_batch_begin = on_test_batch_end = _note_progress
