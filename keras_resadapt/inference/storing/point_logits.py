"""The logits of a data set at several operating points."""

import dataclasses
import os
import zipfile

import numpy as np

from keras_resadapt.files import atomic_path
from keras_resadapt.inference.storing.confidence import softmax


@dataclasses.dataclass(frozen=True)
class PointLogits:
    """The logits and labels of a data set at P operating points.

    Attributes:
        logits: float32 of shape (P, images, classes).
        labels: The true classes, int64 of shape (images,).
        madds: The multiply-adds per image at each point, P integers. In a
            cascade, they include all earlier exits.
        names: The names of the operating points.
        fingerprint: The `model_fingerprint` of the model.

    Raises:
        ValueError: If the shapes do not match or a logit is not finite.
    """

    logits: np.ndarray
    labels: np.ndarray
    madds: tuple[int, ...]
    names: tuple[str, ...]
    fingerprint: str | None = None

    def __post_init__(self):
        logits = np.asarray(self.logits, "float32")
        labels = np.asarray(self.labels)
        if (
            logits.ndim != 3
            or labels.shape != logits.shape[1:2]
            or not len(logits) == len(self.madds) == len(self.names)
        ):
            raise ValueError(
                "`logits` must have shape (points, images, classes), `labels` "
                "(images,), and `madds` and `names` one entry per point. "
                f"Received: {logits.shape}, {labels.shape}, "
                f"{len(self.madds)} and {len(self.names)} entries"
            )
        if not np.isfinite(logits).all():
            raise ValueError(
                "The logits of some images are not finite: look for NaN in "
                "the pixels or the weights."
            )
        object.__setattr__(self, "logits", logits)
        object.__setattr__(self, "labels", labels.astype("int64"))
        object.__setattr__(self, "madds", tuple(int(m) for m in self.madds))
        object.__setattr__(self, "names", tuple(str(n) for n in self.names))

    @property
    def classes(self) -> np.ndarray:
        """The most probable class, int64 of shape (P, images)."""
        return self.logits.argmax(axis=-1)

    @property
    def correct(self) -> np.ndarray:
        """Whether the most probable class is correct, bool of shape (P, images)."""
        return self.classes == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the most probable class, float32 (P, images)."""
        return softmax(self.logits).max(axis=-1)

    def check_cascade(self) -> None:
        """Raises a `ValueError` unless the points are exits, cheapest first."""
        if not np.all(np.diff(self.madds) > 0):
            raise ValueError(
                "The logits must be those of the exits of a cascade, the "
                f"cheapest first. Received: {self.names} with {self.madds} "
                "multiply-adds"
            )

    def take(self, rows) -> "PointLogits":
        """Returns the logits of some images, by row numbers or a mask."""
        return dataclasses.replace(
            self, logits=self.logits[:, rows], labels=self.labels[rows]
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes an `.npz` file, completely or not at all."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                logits=self.logits,
                labels=self.labels,
                madds=self.madds,
                names=self.names,
                fingerprint=self.fingerprint or "",
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "PointLogits":
        """Reads a file that `save` wrote.

        Raises:
            ValueError: If the file does not hold the logits of a model. The
                message names the file.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        try:
            with np.load(path) as file:
                content = {key: file[key] for key in file.files}
            if set(content) != fields:
                raise ValueError(f"it holds {sorted(content)}")
            content["fingerprint"] = str(content["fingerprint"]) or None
            return cls(**content)
        except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{os.fspath(path)!r} does not hold the logits of a model: {error}"
            ) from error
