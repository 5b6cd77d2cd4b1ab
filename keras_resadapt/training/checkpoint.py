"""Checkpoints after epochs and steps, from which a killed training resumes."""

import os
import re
import shutil
import sys
from collections.abc import Sequence

import keras
import numpy as np

from keras_resadapt.number_checks import check_integer
from keras_resadapt.training.checkpoint_file import (
    Position,
    TrainingState,
    checkpoint_path,
    list_checkpoints,
    resume_text,
    save_checkpoint,
)
from keras_resadapt.training.metric_state import read_metric_state
from keras_resadapt.training.preemption import PREEMPTED, Preemption
from keras_resadapt.training.skipping import skip_steps
from keras_resadapt.training.workers import is_chief, run_on_chief

# What `atomic_path` leaves behind where a process was killed while writing
_UNFINISHED = re.compile(r"\.[0-9a-f]{12}\..*\.keras")


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of a training after every epoch and every `every` steps.

    A checkpoint is the whole model, optimizer included, in a file such as
    `epoch_0002.keras` (two finished epochs) or `epoch_0002_step_000050.keras` (and
    50 steps of the next epoch, with the values of the metrics). Each file appears
    under its name only when it is complete. The newest two are kept, so that
    `load_last_checkpoint` can fall back to the earlier one.

    A resumed training continues within the epoch. With the same batches, its
    weights and its logs are those of an uninterrupted training:

        state = training.load_last_checkpoint(folder)
        if state is None:
            state = training.TrainingState(build_and_compile())
        epoch, step = state.data_position(steps)
        batches = data.training_batches(
            source, 128, 32, seed=1, initial_epoch=epoch, initial_step=step
        )
        state.model.fit(
            batches,
            steps_per_epoch=steps,
            initial_epoch=state.epoch,
            epochs=90,
            callbacks=[training.Checkpoint(folder, every=50, resumed=state)],
        )

    `fit` counts the finished steps of the epoch again, without running them or
    reading batches. Their logs are the restored values of the metrics. The batches
    must start at the position of the training and must not end before it ends, as
    those of `data.training_batches` with `epochs=None`.

    The model is also saved once, and removed again, before the first step: a folder
    that cannot be written and a disk that is too full stop the training before it
    starts.

    Of several workers, the chief writes the files. All workers must use this
    callback with the same arguments, because reading the metrics involves all.

    Args:
        folder: The folder of the checkpoints. It is created when the training
            starts. Two trainings must not share a folder; see `lock_folder`.
        every: The number of steps between two checkpoints of an epoch; None for
            checkpoints after epochs alone.
        resumed: The state from which the training continues; None for a new one.
        preemption: Writes a checkpoint at a signal and ends the process; see
            `Preemption`.

    Attributes:
        position: The epoch and the step that comes next.
        saved: The epoch and the step of the newest checkpoint of this training;
            None if there is no checkpoint yet.

    Raises:
        ValueError: If `every` is not positive, or if `fit` starts at another epoch
            than `resumed` or has too few steps per epoch.
        OSError: If a checkpoint cannot be written, or if the disk has no room
            for three files of its size: the two that are kept and one that
            is being written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        every: int | None = None,
        resumed: TrainingState | None = None,
        preemption: Preemption | None = None,
    ):
        super().__init__()
        if every is not None:
            every = check_integer(every, "every")
        self.folder = os.fspath(folder)
        self.every = every
        self.preemption = preemption
        self._resumed = resumed if resumed and resumed.step else None
        self.position: Position = (resumed.epoch, resumed.step) if resumed else (0, 0)
        self.saved = self.position if self.position != (0, 0) else None
        self._fitting = False
        # The values at the end of an epoch, which its validation replaces
        self._metrics: Sequence[np.ndarray] = ()

    @property
    def resume_text(self) -> str:
        """From where the training resumes, such as "after step 50 of epoch 3"."""
        return resume_text(self.saved)

    # === Called by `fit` ===

    def on_train_begin(self, logs=None):
        run_on_chief(self._check_folder)
        self._fitting = True
        if self.preemption is not None:
            self.preemption.deferred = True

    def on_epoch_begin(self, epoch, logs=None):
        self.position = (epoch, 0)
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        if epoch != resumed.epoch:
            raise ValueError(
                "`initial_epoch` must be the epoch of the checkpoint, "
                f"{resumed.epoch}. Received: initial_epoch={epoch}"
            )
        self.position = (epoch, resumed.step)
        skip_steps(self.model, resumed, self.params.get("steps"))

    def on_train_batch_begin(self, batch, logs=None):
        epoch, step = self.position
        if batch < step:  # finished before the training was resumed
            return
        self.position = (epoch, batch)
        first = batch % (self.every or 1) < self.model.steps_per_execution
        if self.every and first and self.position not in (self.saved, (epoch, 0)):
            self._save()
        self._stop_if_preempted()

    def on_test_begin(self, logs=None):
        # `evaluate` is about to replace the values of the training.
        steps = self.params.get("steps")
        if self._fitting and self.preemption is not None and steps:
            self.position = (self.position[0], steps)
            self._metrics = read_metric_state(self.model)

    def on_test_batch_begin(self, batch, logs=None):
        if self._metrics:
            self._stop_if_preempted()

    def on_epoch_end(self, epoch, logs=None):
        self.position, self._metrics = (epoch + 1, 0), ()
        self._save()
        self._stop_if_preempted(agree_now=True)

    def on_train_end(self, logs=None):
        self._fitting = False
        self._stop_if_preempted(agree_now=True)
        if self.preemption is not None:
            self.preemption.deferred = False
            if self.preemption.received is not None:  # since the last look
                raise SystemExit(PREEMPTED)

    # === Saving and stopping ===

    def _check_folder(self) -> None:
        """Raises an `OSError` if there is no room for the checkpoints."""
        os.makedirs(self.folder, exist_ok=True)
        for name in os.listdir(self.folder):
            if _UNFINISHED.fullmatch(name):
                os.remove(os.path.join(self.folder, name))
        probe = os.path.join(self.folder, "probe.keras")
        save_checkpoint(probe, self.model)
        size = os.path.getsize(probe)
        os.remove(probe)
        free = shutil.disk_usage(self.folder).free
        if free < 3 * size:
            raise OSError(
                "The disk must have room for three checkpoints of "
                f"{size / 1e6:.0f} MB each. Received: folder={self.folder!r} "
                f"on a disk with {free / 1e6:.0f} MB free"
            )

    def _save(self) -> None:
        """Writes the checkpoint of the position and removes older ones."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        metrics = self._metrics
        if self.position[1] and not metrics:
            metrics = read_metric_state(self.model)
        run_on_chief(lambda: self._write(metrics))
        self.saved = self.position

    def _write(self, metrics: Sequence[np.ndarray]) -> None:
        path = checkpoint_path(self.folder, self.position)
        save_checkpoint(path, self.model, metrics)
        checkpoints = list_checkpoints(self.folder)
        earlier = [position for position in checkpoints if position < self.position]
        kept = {self.position, max(earlier, default=None)}
        for position in checkpoints.keys() - kept:
            os.remove(checkpoints[position])

    def _stop_if_preempted(self, agree_now: bool = False) -> None:
        if self.preemption is None or not self.preemption.is_due(agree_now):
            return
        if self.position not in ((0, 0), self.saved):
            self._save()
        if is_chief():
            received = self.preemption.received
            print(
                # On a line of its own, after the progress bar
                f"\nStopped by {received.name if received else 'another worker'}. The "
                f"training can be resumed {self.resume_text}.",
                file=sys.stderr,
            )
        raise SystemExit(PREEMPTED)
