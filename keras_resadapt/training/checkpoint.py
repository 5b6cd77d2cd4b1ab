"""Training that can be killed at any time, and goes on where it was."""

import os
import re

import keras

_NAME = re.compile(r"epoch_(\d+)\.keras")


class EpochCheckpoint(keras.callbacks.Callback):
    """Saves the whole model, optimizer included, after every epoch.

    The file appears under its name only when it is complete, and the one
    before it goes only then: a process killed at any moment leaves a good
    checkpoint. `load_last_checkpoint` finds it.

    Args:
        folder: Where to save; made if it is not there.
    """

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        # `.keras` files need that ending, also while they are written.
        partial = os.path.join(self.folder, "partial.keras")
        self.model.save(partial)
        earlier = _checkpoints(self.folder)
        name = f"epoch_{epoch + 1:04d}.keras"
        os.replace(partial, os.path.join(self.folder, name))
        for other, path in earlier.items():
            if other != epoch + 1:
                os.remove(path)


def _checkpoints(folder: str) -> dict[int, str]:
    """Paths of the checkpoints in a folder by number of finished epochs."""
    if not os.path.isdir(folder):
        return {}
    return {
        int(match[1]): os.path.join(folder, match[0])
        for match in map(_NAME.fullmatch, os.listdir(folder))
        if match
    }


def load_last_checkpoint(folder: str) -> tuple[keras.Model, int] | None:
    """Loads what `EpochCheckpoint` saved last.

    Returns:
        The compiled model and the number of finished epochs (the
        `initial_epoch` to go on from), or None if there is none.
    """
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    epochs = max(checkpoints)
    return keras.saving.load_model(checkpoints[epochs]), epochs
