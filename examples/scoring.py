"""Class, cost and errors of encoded images, from one signature of a SavedModel.

`score_ray.py` and `score_beam.py` share this module. It needs TensorFlow and
pyarrow, and not `keras_resadapt`, so that the machines that run the model need no
other package.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow
import pyarrow.fs

_DESCRIPTION = "assets.extra/operating_points.json"

SCHEMA = pyarrow.schema(
    [
        ("key", pyarrow.string()),  # the file of the image, or file#record
        ("class_index", pyarrow.int32()),
        ("class_name", pyarrow.string()),  # null if the export has no names
        ("probability", pyarrow.float32()),  # of this class, in [0, 1]
        ("operating_point", pyarrow.string()),  # such as "exit1" or "r48"
        ("exit", pyarrow.int32()),  # null if the network is no cascade
        ("madds", pyarrow.int64()),  # multiply-adds for this image
        ("error", pyarrow.string()),  # null, or why all others are null
    ]
)


class ScoringError(Exception):
    """An error that the user can correct, with a message of one line."""


# === The files of a SavedModel ===


def file_system_of(flag: str, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Returns the file system of a path or URI, and the path within it.

    Args:
        flag: The name of the flag that holds the URI, for the message.
        uri: A local path, or a URI that pyarrow can open, such as
            `s3://bucket/folder`.

    Raises:
        ScoringError: If pyarrow has no such file system.
    """
    path = uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
    try:
        return pyarrow.fs.FileSystem.from_uri(path)
    except (ValueError, OSError, ImportError) as error:
        raise ScoringError(
            f"--{flag} must be a local path, or a URI of a file system of pyarrow. "
            f"Received: {uri} ({error})"
        ) from error


def read_model(uri: str) -> dict[str, bytes]:
    """Reads all files of a SavedModel.

    Args:
        uri: The folder, as a local path or a URI.

    Returns:
        The contents, by the path within the folder.

    Raises:
        ScoringError: If there is no SavedModel.
    """
    file_system, folder = file_system_of("savedmodel", uri)
    selector = pyarrow.fs.FileSelector(folder, recursive=True, allow_not_found=True)
    if file_system.get_file_info(folder).type != pyarrow.fs.FileType.Directory:
        infos = []
    else:
        infos = file_system.get_file_info(selector)
    files = {}
    for info in infos:
        if info.is_file:
            with file_system.open_input_file(info.path) as file:
                files[os.path.relpath(info.path, folder)] = file.read()
    if "saved_model.pb" not in files or _DESCRIPTION not in files:
        raise ScoringError(
            "--savedmodel must be a folder that export_savedmodel.py wrote. "
            f"Received: {uri}"
        )
    return files


def fingerprint(files: Mapping[str, bytes]) -> str:
    """Returns a hash of the files of a SavedModel."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\n".encode() + files[name])
    return digest.hexdigest()


def check_signature(files: Mapping[str, bytes], signature: str) -> None:
    """Checks that a signature classifies encoded images.

    Args:
        files: The files of the SavedModel.
        signature: The name of the signature.

    Raises:
        ScoringError: If there is no such signature. The message lists those that
            can be used.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(files["saved_model.pb"])
    usable = [
        name
        for name, definition in model.meta_graphs[0].signature_def.items()
        if name.endswith("_encoded")
        and set(definition.inputs) == {"images"}
        and {"classes", "probabilities"} <= set(definition.outputs)
    ]
    if signature not in usable:
        names = ", ".join(sorted(usable)) or "none"
        raise ScoringError(
            "--signature must classify encoded images and take no other input. "
            f"This SavedModel has: {names}. Received: {signature}"
        )


# === Scoring ===


class Scorer:
    """A signature of a SavedModel, which turns encoded images into rows.

    Args:
        files: The files of the SavedModel, as `read_model` returns them.
        signature: A signature that `check_signature` accepts.
        threads: The number of TensorFlow's threads in this process; by default
            one per core.
    """

    def __init__(
        self, files: Mapping[str, bytes], signature: str, threads: int | None = None
    ):
        # As `quiet_tensorflow.py`, which other machines do not have
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        import tensorflow as tf

        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = os.path.join(folder, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(content)
            self._model = tf.saved_model.load(folder)  # owns the weights
        self._signature = self._model.signatures[signature]
        description = json.loads(files[_DESCRIPTION])
        points = description["operating_points"]
        self._exit_names = {point["exit"]: point["name"] for point in points}
        self._point = None  # of a signature whose images all have the same cost
        for point in points:
            if signature in point["encoded_signatures"]:
                self._point = point

    def rows(self, keys: Sequence[str], images: Sequence[bytes | Exception]) -> list:
        """Scores one batch of images.

        Args:
            keys: The key of each image.
            images: The content of each image file, or the reason for which it
                could not be read.

        Returns:
            One dict per image, in the same order, with the columns of `SCHEMA`. An
            image that cannot be read or decoded has `error`. All other columns but
            `key` are then None.
        """
        read = [image for image in images if isinstance(image, bytes)]
        results = iter(self._score(read))
        empty = dict.fromkeys(SCHEMA.names)
        rows = []
        for key, image in zip(keys, images):
            if isinstance(image, bytes):
                result = next(results)
            else:
                result = {"error": _one_line(image)}
            rows.append({**empty, "key": key, **result})
        return rows

    def _score(self, images) -> list[dict]:
        """Scores images, and halves a batch that fails until it is one image."""
        import tensorflow as tf

        if not images:
            return []
        try:
            outputs = self._signature(images=tf.constant(np.array(images, object)))
        except tf.errors.InvalidArgumentError as error:
            if len(images) == 1:
                return [{"error": _one_line(error)}]
            middle = len(images) // 2
            return self._score(images[:middle]) + self._score(images[middle:])
        outputs = {name: tensor.numpy() for name, tensor in outputs.items()}
        return [self._result(outputs, i) for i in range(len(images))]

    def _result(self, outputs, i) -> dict:
        index = int(outputs["probabilities"][i].argmax())
        name = outputs["classes"][i, 0]
        result = {
            "class_index": index,
            "class_name": name.decode() if isinstance(name, bytes) else None,
            "probability": float(outputs["probabilities"][i, index]),
        }
        if self._point is not None:
            exit, point = self._point["exit"], self._point["name"]
            madds = self._point["madds"]
        else:
            exit, madds = int(outputs["exits"][i]), int(outputs["madds"][i])
            point = self._exit_names.get(exit, f"exit{exit}")
        return {**result, "operating_point": point, "exit": exit, "madds": madds}


def _one_line(error: Exception) -> str:
    """Returns the reason in an error message, of at most 300 characters."""
    text = str(error).strip()
    # TensorFlow's messages have the reason before the node of the graph.
    if found := re.search(r"([^\n]+)\n\t \[\[", text):
        text = found[1]
    return text.split("\n")[0][:300] or type(error).__name__
