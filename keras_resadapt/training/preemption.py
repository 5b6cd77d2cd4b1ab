"""Signals that announce the end of a process, such as on a spot machine."""

import contextlib
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from keras_resadapt.training.workers import gather_from_workers, num_workers

# `EX_TEMPFAIL` of sysexits.h: the same command succeeds when it is repeated.
PREEMPTED = 75

# SIGTERM: Kubernetes, SLURM and spot machines. SIGUSR1, which Windows does not
# have: the usual choice for SLURM's `--signal`.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
_SECONDS_BETWEEN_AGREEMENTS = 1.0


class Preemption(contextlib.AbstractContextManager):
    """Ends the process with exit code 75 at a signal, after a checkpoint.

    While a `Checkpoint` with this object trains, a signal is only noted, and the
    callback writes a checkpoint before the next step. At other times within the
    block, a signal ends the process at once. In both cases, `SystemExit` is raised
    with the code `training.PREEMPTED`. When the block ends, the earlier signal
    handlers are restored.

        with training.Preemption() as preemption:
            checkpoint = training.Checkpoint(folder, preemption=preemption)
            model.fit(batches, callbacks=[checkpoint])

    It is enough that one of several workers receives a signal. All workers agree
    about once per second whether to stop, so that they stop at the same step.

    Python handles signals in the main thread alone. In another thread, the block
    changes nothing.

    Args:
        signals: The signals, by default SIGTERM and SIGUSR1.

    Attributes:
        received: The signal that was received, or None.
        deferred: Whether a signal is only noted.
    """

    def __init__(self, signals: Sequence[signal.Signals] = SIGNALS):
        self.signals = tuple(signals)
        self.received: signal.Signals | None = None
        self.deferred = False
        self._earlier: dict[signal.Signals, Any] = {}
        self._started = time.monotonic()  # the calls since the last agreement
        self._calls = 0
        self._calls_to_agreement = 1

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._earlier[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        self.deferred = False
        while self._earlier:
            number, handler = self._earlier.popitem()
            # None: a handler that was not installed from Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame) -> None:
        self.received = signal.Signals(number)
        if not self.deferred:
            raise SystemExit(PREEMPTED)

    def is_due(self, agree_now: bool = False) -> bool:
        """Returns whether the training must stop, with the same result in all workers.

        All workers must call this method at the same places.

        Args:
            agree_now: Whether the workers agree in this call in any case.
        """
        if num_workers() == 1:
            return self.received is not None
        self._calls += 1
        if self._calls < self._calls_to_agreement and not agree_now:
            return False
        seconds = (time.monotonic() - self._started) / self._calls
        workers = gather_from_workers([self.received is not None, seconds])
        # The chief's time per call determines when all workers agree again.
        _, seconds = workers[0]
        self._calls_to_agreement = int(_SECONDS_BETWEEN_AGREEMENTS / max(seconds, 1e-4))
        self._started, self._calls = time.monotonic(), 0
        return any(received for received, _ in workers)
