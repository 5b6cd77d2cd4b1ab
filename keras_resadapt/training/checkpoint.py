"""Checkpoints after every epoch, from which a killed training resumes."""

import os
import re
import shutil
import warnings
import zipfile
import zlib

import keras

from keras_resadapt.files import atomic_path

_NAME = re.compile(r"epoch_(\d+)\.keras")
# What `atomic_path` leaves behind where a process was killed while writing
_UNFINISHED = re.compile(r"\.[0-9a-f]{12}\..*\.keras")


class EpochCheckpoint(keras.callbacks.Callback):
    """Saves the whole model, optimizer included, after every epoch.

    The files are `epoch_0001.keras`, `epoch_0002.keras` and so on. Each one
    appears under its name only when it is complete. The newest two are kept,
    so that `load_last_checkpoint` can fall back to the earlier one.

    The model is also saved once, and removed again, before the first epoch:
    a folder that cannot be written and a disk that is too full stop the
    training before it starts.

    Args:
        folder: The folder of the checkpoints. It is created when the training
            starts. Two trainings must not share a folder; see `lock_folder`.

    Raises:
        OSError: If a checkpoint cannot be written, or if the disk has no room
            for three files of its size: the two that are kept and one that
            is being written.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        self.folder = os.fspath(folder)

    def on_train_begin(self, logs=None):
        os.makedirs(self.folder, exist_ok=True)
        for name in os.listdir(self.folder):
            if _UNFINISHED.fullmatch(name):
                os.remove(os.path.join(self.folder, name))
        probe = os.path.join(self.folder, "probe.keras")
        self._save(probe)
        size = os.path.getsize(probe)
        os.remove(probe)
        free = shutil.disk_usage(self.folder).free
        if free < 3 * size:
            raise OSError(
                "The disk must have room for three checkpoints of "
                f"{size / 1e6:.0f} MB each. Received: folder={self.folder!r} "
                f"on a disk with {free / 1e6:.0f} MB free"
            )

    def on_epoch_end(self, epoch, logs=None):
        self._save(os.path.join(self.folder, f"epoch_{epoch + 1:04d}.keras"))
        checkpoints = _checkpoints(self.folder)
        earlier = [epochs for epochs in checkpoints if epochs <= epoch]
        kept = {epoch + 1, max(earlier, default=None)}
        for epochs in checkpoints.keys() - kept:
            os.remove(checkpoints[epochs])

    def _save(self, path: str) -> None:
        try:
            with atomic_path(path) as temporary:
                self.model.save(temporary)
        except OSError as error:
            raise OSError(
                error.errno,
                "A checkpoint cannot be saved in the folder: "
                f"{error.strerror or error}",
                self.folder,
            ) from error


def load_last_checkpoint(
    folder: str | os.PathLike,
) -> tuple[keras.Model, int] | None:
    """Loads the newest checkpoint of `EpochCheckpoint` that is not damaged.

    A warning names each damaged checkpoint that is passed over.

    Args:
        folder: The folder of the checkpoints. It may be missing or empty.

    Returns:
        The compiled model and the number of finished epochs (the
        `initial_epoch` to continue from), or None if there is no checkpoint.

    Raises:
        ValueError: If there are checkpoints and all of them are damaged.
    """
    checkpoints = _checkpoints(folder)
    damages = []
    for epochs in sorted(checkpoints, reverse=True):
        path = checkpoints[epochs]
        damage = _damage(path)
        if damage is None:
            for message in damages:
                warnings.warn(
                    f"{message} Training continues from the earlier {path!r}.",
                    stacklevel=2,
                )
            return keras.saving.load_model(path), epochs
        damages.append(f"The checkpoint {path!r} is damaged ({damage}).")
    if damages:
        raise ValueError(
            f"All checkpoints in {os.fspath(folder)!r} are damaged, so that "
            f"training cannot continue. {' '.join(damages)}"
        )
    return None


def _checkpoints(folder: str | os.PathLike) -> dict[int, str]:
    """Returns the paths of the checkpoints by number of finished epochs."""
    if not os.path.isdir(folder):
        return {}
    return {
        int(match[1]): os.path.join(folder, match[0])
        for match in map(_NAME.fullmatch, os.listdir(folder))
        if match
    }


def _damage(path: str) -> str | None:
    """Returns what is wrong with a `.keras` file, or None.

    A `.keras` file is a zip archive, which stores a checksum of each member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        return str(error) or type(error).__name__
    return member and f"the checksum of {member} is wrong"
