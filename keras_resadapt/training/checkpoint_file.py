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
from keras_resadapt.training.workers import check_workers_agree, run_on_all

Position = tuple[int, int]

_NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?\.keras")
_STATE = "training_state.npz"


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

    @property
    def resume_text(self) -> str:
        """From where the training resumes, such as "after step 50 of epoch 3"."""
        return resume_text((self.epoch, self.step))

    def data_position(self, steps_per_epoch: int) -> Position:
        """Returns the epoch and the step of the first batch that `fit` reads.

        These are the arguments `initial_epoch` and `initial_step` of
        `data.training_batches`. They are the position of the training, except where
        all steps of an epoch are finished and its validation is not.

        Args:
            steps_per_epoch: The number of steps per epoch.
        """
        if self.step == steps_per_epoch:  # only the validation is left
            return self.epoch + 1, 0
        return self.epoch, self.step


def resume_text(position: Position | None) -> str:
    """Returns from where a training resumes, such as "after step 50 of epoch 3".

    Args:
        position: The epoch and the step of a checkpoint; None without one.
    """
    if position is None:
        return "from the start"
    epoch, step = position
    return f"after step {step} of epoch {epoch + 1}" if step else f"after epoch {epoch}"


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
        _position(match): os.path.join(folder, match[0])
        for match in map(_NAME.fullmatch, os.listdir(folder))
        if match
    }
    return dict(sorted(found.items()))


def _position(match: re.Match) -> Position:
    """Returns the position of the checkpoint whose name was matched."""
    return int(match[1]), int(match[2] or 0)


def save_checkpoint(
    path: str, model: keras.Model, metrics: Sequence[np.ndarray] = ()
) -> None:
    """Writes a checkpoint completely or not at all.

    A checkpoint is the `.keras` file of a model. A further member of this archive
    holds what Keras does not save: the values of the metrics, and the states of the
    random generators of layers such as `Dropout`. With several workers, the chief
    calls this function, through `run_on_chief`.

    Args:
        path: The file to write or replace.
        model: The compiled model.
        metrics: The values of the metrics within an epoch.

    Raises:
        OSError: If the file cannot be written. The message names the folder.
    """
    try:
        with atomic_path(path) as temporary:
            model.save(temporary)
            seeds = [np.array(variable) for variable in _seed_variables(model)]
            arrays = {f"metric_{i}": values for i, values in enumerate(metrics)}
            arrays |= {f"seed_{i}": values for i, values in enumerate(seeds)}
            if arrays:
                content = io.BytesIO()
                np.savez(content, **arrays)
                with zipfile.ZipFile(temporary, "a") as archive:
                    archive.writestr(_STATE, content.getvalue())
    except OSError as error:
        raise OSError(
            error.errno,
            f"A checkpoint cannot be saved in the folder: {error.strerror or error}",
            os.path.dirname(path),
        ) from error


def find_last_checkpoint(folder: str | os.PathLike) -> str | None:
    """Returns the path of the newest checkpoint that is not damaged.

    A warning names each damaged checkpoint that is passed over. All workers of a
    training must call this function together.

    Args:
        folder: The folder of the checkpoints. It may be missing or empty.

    Returns:
        The path, or None if there is no checkpoint.

    Raises:
        ValueError: If there are checkpoints and all of them are damaged, or if the
            workers find different checkpoints, as on a network file system that
            shows new files late.
    """
    path = run_on_all(lambda: _last_undamaged(folder))
    check_workers_agree({"the last checkpoint": path and os.path.basename(path)})
    return path


def _last_undamaged(folder: str | os.PathLike) -> str | None:
    damages = []
    for (_, step), path in reversed(list_checkpoints(folder).items()):
        damage = _damage(path, step)
        if damage is None:
            for message in damages:
                warnings.warn(
                    f"{message} Training continues from the earlier {path!r}.",
                    stacklevel=2,
                )
            return path
        damages.append(f"The checkpoint {path!r} is damaged ({damage}).")
    if damages:
        raise ValueError(
            f"All checkpoints in {os.fspath(folder)!r} are damaged, so that "
            f"training cannot continue. {' '.join(damages)}"
        )
    return None


def load_checkpoint(path: str | os.PathLike) -> TrainingState:
    """Loads a checkpoint of `Checkpoint`.

    Args:
        path: The file. The position of the training is part of its name.

    Raises:
        ValueError: If the file does not have the name of a checkpoint.
    """
    match = _NAME.fullmatch(os.path.basename(path))
    if match is None:
        raise ValueError(
            "`path` must have the name of a checkpoint, such as epoch_0002.keras. "
            f"Received: path={os.fspath(path)!r}"
        )
    model = keras.saving.load_model(path)
    metrics, seeds = _load_state(path)
    for variable, seed in zip(_seed_variables(model), seeds):
        variable.assign(seed)
    return TrainingState(model, *_position(match), metrics)


def load_last_checkpoint(folder: str | os.PathLike) -> TrainingState | None:
    """Loads the newest checkpoint of `Checkpoint` that is not damaged.

    All workers of a training must call this function together. It raises the errors
    and warnings of `find_last_checkpoint`.

    Args:
        folder: The folder of the checkpoints. It may be missing or empty.

    Returns:
        The state of the training, or None if there is no checkpoint.
    """
    path = find_last_checkpoint(folder)
    return None if path is None else load_checkpoint(path)


def _seed_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of the random generators of a model's layers."""
    weights = set(map(id, model.weights))
    return [variable for variable in model.variables if id(variable) not in weights]


def _load_state(path: str | os.PathLike) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the values of the metrics and the states of the random generators."""
    with zipfile.ZipFile(path) as archive:
        if _STATE not in archive.namelist():
            return [], []
        content = io.BytesIO(archive.read(_STATE))
    with np.load(content, allow_pickle=False) as arrays:
        metrics, seeds = (
            [arrays[name] for name in arrays.files if name.startswith(kind)]
            for kind in ("metric_", "seed_")
        )
        return metrics, seeds


def _damage(path: str, step: int) -> str | None:
    """Returns what is wrong with the checkpoint of a step, or None.

    A `.keras` file is a zip archive, which stores a checksum of each member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
            if step and _STATE not in archive.namelist():
                return f"it has no {_STATE}"
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        return str(error) or type(error).__name__
    return member and f"the checksum of {member} is wrong"
