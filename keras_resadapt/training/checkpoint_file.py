"""The files of checkpoints, and the state of a training that they hold."""

import dataclasses
import io
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence

import keras
import numpy as np

from keras_resadapt.files import atomic_path

Position = tuple[int, int]

_NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?\.keras")
_METRICS = "metrics.npz"


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """A training that has been started, and how far it has come.

    Attributes:
        model: The compiled model, with its optimizer.
        epoch: The number of finished epochs, the `initial_epoch` of `fit`.
        step: The number of finished steps of the next epoch.
        metrics: The values of the metrics after these steps, as
            `read_metric_state` returns them; empty if `step` is 0.
    """

    model: keras.Model
    epoch: int = 0
    step: int = 0
    metrics: Sequence[np.ndarray] = ()

    def data_position(self, steps_per_epoch: int) -> Position:
        """Returns the epoch and the step from which `fit` reads batches.

        These are the arguments `initial_epoch` and `initial_step` of
        `data.training_batches`. With TensorFlow, they are the position of the
        training. With JAX, Keras reads the batches of the finished steps too.

        Args:
            steps_per_epoch: The number of steps per epoch.
        """
        if keras.backend.backend() != "tensorflow":
            return self.epoch, 0
        if self.step == steps_per_epoch:  # only the validation is left
            return self.epoch + 1, 0
        return self.epoch, self.step


def describe(position: Position) -> str:
    """Returns a position as text, such as "step 50 of epoch 3"."""
    epoch, step = position
    return f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"


def checkpoint_path(folder: str | os.PathLike, position: Position) -> str:
    """Returns the path of the checkpoint at a position."""
    epoch, step = position
    name = f"epoch_{epoch:04d}" + (f"_step_{step:06d}" if step else "")
    return os.path.join(folder, f"{name}.keras")


def list_checkpoints(folder: str | os.PathLike) -> dict[Position, str]:
    """Returns the paths of the checkpoints in a folder, the oldest first."""
    if not os.path.isdir(folder):
        return {}
    found = {
        (int(match[1]), int(match[2] or 0)): os.path.join(folder, match[0])
        for match in map(_NAME.fullmatch, os.listdir(folder))
        if match
    }
    return dict(sorted(found.items()))


def save_checkpoint(
    path: str, model: keras.Model, metrics: Sequence[np.ndarray] = ()
) -> None:
    """Writes a checkpoint completely or not at all.

    A checkpoint is the `.keras` file of a model. The values of metrics are a
    further member of this archive.

    Raises:
        OSError: If the file cannot be written. The message names the folder.
    """
    try:
        with atomic_path(path) as temporary:
            model.save(temporary)
            if metrics:
                values = io.BytesIO()
                np.savez(values, *metrics)
                with zipfile.ZipFile(temporary, "a") as archive:
                    archive.writestr(_METRICS, values.getvalue())
    except OSError as error:
        raise OSError(
            error.errno,
            f"A checkpoint cannot be saved in the folder: {error.strerror or error}",
            os.path.dirname(path),
        ) from error


def load_last_checkpoint(folder: str | os.PathLike) -> TrainingState | None:
    """Loads the newest checkpoint of `Checkpoint` that is not damaged.

    A warning names each damaged checkpoint that is passed over.

    Args:
        folder: The folder of the checkpoints. It may be missing or empty.

    Returns:
        The state of the training, or None if there is no checkpoint.

    Raises:
        ValueError: If there are checkpoints and all of them are damaged.
    """
    damages = []
    for (epoch, step), path in reversed(list_checkpoints(folder).items()):
        damage = _damage(path, step)
        if damage is None:
            for message in damages:
                warnings.warn(
                    f"{message} Training continues from the earlier {path!r}.",
                    stacklevel=2,
                )
            metrics = _load_metrics(path) if step else []
            return TrainingState(keras.saving.load_model(path), epoch, step, metrics)
        damages.append(f"The checkpoint {path!r} is damaged ({damage}).")
    if damages:
        raise ValueError(
            f"All checkpoints in {os.fspath(folder)!r} are damaged, so that "
            f"training cannot continue. {' '.join(damages)}"
        )
    return None


def _load_metrics(path: str) -> list[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        with np.load(io.BytesIO(archive.read(_METRICS)), allow_pickle=False) as values:
            return [values[name] for name in values.files]


def _damage(path: str, step: int) -> str | None:
    """Returns what is wrong with the checkpoint of a step, or None.

    A `.keras` file is a zip archive, which stores a checksum of each member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
            if step and _METRICS not in archive.namelist():
                return f"it has no {_METRICS}"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        return str(error) or type(error).__name__
    return member and f"the checksum of {member} is wrong"
