"""Writes a classifier as a SavedModel with a signature an operating point."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence

import keras
import tensorflow as tf

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.data import preprocess_encoded
from keras_resadapt.export.checks import check_model, check_path, check_points
from keras_resadapt.export.warmup import write_warmup_requests
from keras_resadapt.inference.running.adaptive import adaptive_logits
from keras_resadapt.inference.running.frozen import freeze as freeze_function
from keras_resadapt.inference.running.stages import (
    cascade_stages,
    freeze_stages,
)
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.profile import ProfileRow
from keras_resadapt.quantization import (
    LearnedQuantization,
    check_calibrated,
    pack,
)

_DEFAULT = "serving_default"
_ADAPTIVE = "adaptive"
_TOP = 5


def export_saved_model(
    model: Network,
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    *,
    points: Iterable[OperatingPoint] | None = None,
    encoded: bool = True,
    crop_fraction: float = 0.875,
    model_name: str | None = None,
    warmup_batch_sizes: Sequence[int] = (1,),
    thresholds: Thresholds | Sequence[float] | None = None,
    freeze: bool = False,
) -> dict:
    """Exports a classifier for TensorFlow Serving, or any TensorFlow runtime.

    All signatures share one copy of the weights, of a network quantized with
    `LearnedQuantization` in as many bits a weight. Each operating point has
    two signatures:

    - `<point.name>`, such as `"r160"`: `images` are float32 pixels of shape
      (batch, resolution, resolution, 3) in the range that the model's
      preprocessing expects ([0, 255] for `"imagenet"` and `"unit"`). NaN and
      infinite values are refused.
    - `<point.name>_encoded`, such as `"r160_encoded"`: `images` are the bytes
      of JPEG or PNG files, strings of shape (batch,). The evaluation
      preprocessing of the papers is part of the graph
      (`data.preprocess_encoded`); it makes pixels in [0, 255], also for a
      model with `preprocessing=None`, which gets them as they are.
      A file that cannot be decoded is refused.

    At an exit of a `Cascade`, nothing beyond it is computed. A cascade has two
    more signatures, and their `_encoded` twins:

    - `"adaptive"` takes `thresholds` beside `images`, float32 of shape
      (exits - 1,), values in [0, 1]: each image stops at the first exit that
      is sure of it, and nothing more is computed for it. It also returns
      `exits`, int32, and `madds`, int64, both of shape (batch,).
      A server that batches requests must leave this signature out, because
      `thresholds` has no row an image.
    - `"adaptive_default"` takes `images` alone; its thresholds are those of
      the argument `thresholds`.

    `"serving_default"` is `"adaptive_default"` if there is one, else the first
    point's; a cascade's last. Every signature returns `logits` and `probabilities`, float32 of shape
    (batch, classes), and `classes` of shape (batch, min(5, classes)), the
    best first: names, or int32 indices without `class_names`. An empty batch
    gives an empty answer. A request with one bad picture fails as a whole,
    and with it those that the server batched together with it.

    Beside the model lie `assets.extra/tf_serving_warmup_requests`, which
    TensorFlow Serving replays before it accepts traffic, and
    `assets.extra/operating_points.json`, what each signature does and costs.

    Args:
        model: A classifier of this package, on the TensorFlow backend.
        path: The new folder, on a local disk. TensorFlow Serving wants
            `<base>/<model>/<version>`, the version an integer, such as
            `"served/pets/1"`, and is pointed at `<base>/<model>`. The folder
            appears there complete or not at all.
        class_names: A name a class, in the order of the logits.
        points: What to export; by default `model.operating_points`, the
            largest first.
        encoded: Whether to add the signatures that take encoded pictures.
        crop_fraction: Their resolution divided by the short side before the
            centre crop, in (0, 1].
        model_name: The name under which the model is served, for the warm-up
            requests; by default the name of the folder, or of its parent
            where the folder is a version.
        warmup_batch_sizes: Batch sizes of the warm-up requests; each
            signature gets one request a size. Empty for no warm-up.
        thresholds: For a cascade: what `inference.calibrate` found, or plain
            numbers, for `"adaptive_default"`. Their temperatures divide the
            logits in both adaptive signatures.
        freeze: Store the weights as constants, once for each signature that
            takes pixels and is not another one's default. TensorFlow then
            folds and lays them out once and not in every request: a small
            network answers a single image about three times as fast, from a
            file that is larger by as much as there are signatures.

    Returns:
        The content of `operating_points.json`.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        TypeError: If `model` is not a classifier of this package.
        FileExistsError: If there is something at `path`.
        ValueError: For an argument out of its range.
    """
    require_tensorflow("export_saved_model")
    check_model(model)
    scheme = model.scheme
    if isinstance(scheme, LearnedQuantization) and not scheme.packed:
        model = pack(model)
    if thresholds is not None:
        thresholds = _check_thresholds(thresholds, model)
    path = check_path(path)
    class_names = _check_class_names(class_names, model.num_classes)
    points = check_points(points, model)
    if scheme is not None:
        check_calibrated(model, points)
    if not 0 < crop_fraction <= 1:
        raise ValueError(
            "`crop_fraction` must be in (0, 1]. "
            f"Received: crop_fraction={crop_fraction!r}"
        )

    os.makedirs(os.path.dirname(path), exist_ok=True)
    # A server that watches the parent takes up whatever has a number for a
    # name, so that the version must appear there complete.
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        signatures = _write_signatures(
            model,
            unfinished,
            points,
            class_names,
            encoded,
            crop_fraction,
            thresholds,
            freeze,
        )
        write_warmup_requests(
            unfinished,
            model_name or _served_name(path),
            signatures,
            warmup_batch_sizes,
        )
        description = {
            "model": model.name,
            "num_classes": model.num_classes,
            "class_names": class_names,
            "preprocessing": model.preprocessing.mode,
            "crop_fraction": crop_fraction if encoded else None,
            "operating_points": [
                _describe(
                    row,
                    model,
                    signatures,
                    thresholds is None and row.point == _default_point(model, points),
                )
                for row in model.profile(points)
            ],
        }
        if isinstance(model, Cascade):
            description["adaptive"] = _describe_adaptive(model, signatures, thresholds)
        _write_json(unfinished, description)
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return description


# === Signatures ===


def _write_signatures(
    model,
    folder,
    points,
    class_names,
    encoded,
    crop_fraction,
    thresholds,
    freeze,
) -> dict[str, list[tf.TensorSpec]]:
    """Writes the SavedModel; returns what each signature takes."""
    archive = keras.export.ExportArchive()
    signatures = {}

    def add(names, function, size, *specs):
        """A signature and its twin, under one name or several."""
        pixels = tf.TensorSpec((None, size, size, 3), tf.float32, name="images")
        files = tf.TensorSpec((None,), tf.string, name="images")
        for name in names:
            signatures[name] = [pixels, *specs]
            function = archive.add_endpoint(
                name, function, input_signature=signatures[name]
            )
        # Calls the function above, so that the file holds its graph once.
        twin = _encoded(function, size, crop_fraction)
        for name in names if encoded else ():
            name = f"{name}_encoded"
            signatures[name] = [files, *specs]
            twin = archive.add_endpoint(name, twin, input_signature=signatures[name])

    default = _default_point(model, points)
    for point in points:
        names = [point.name]
        if point == default and thresholds is None:
            names.append(_DEFAULT)
        size = model.resolution_of(point)
        add(names, _pixels(model, point, class_names, freeze), size)
    if isinstance(model, Cascade):
        spec = tf.TensorSpec((model.num_exits - 1,), tf.float32, name="thresholds")
        adaptive = _adaptive(model, class_names, thresholds, freeze)
        add([_ADAPTIVE], adaptive, model.resolution, spec)
        if thresholds is not None:
            values = thresholds.values
            names = [f"{_ADAPTIVE}_default", _DEFAULT]
            add(names, lambda x: adaptive(x, values), model.resolution)
    # No `archive.track(model)`: it would store the variables twice.
    archive.write_out(folder, verbose=False)
    return signatures


def _default_point(model, points) -> OperatingPoint:
    """The one for clients that name none."""
    return points[-1] if isinstance(model, Cascade) else points[0]


def _pixels(model, point, class_names, freeze) -> Callable:
    """The endpoint that takes pixels."""

    def logits(images):
        return model.logits(images, point)

    if freeze:
        size = model.resolution_of(point)
        spec = tf.TensorSpec((None, size, size, 3), tf.float32)
        frozen = freeze_function(logits, [spec])
        logits = lambda images: frozen(images)[0]

    def answer(images):
        rows = tf.shape(images)[0]
        return _answer(logits(_check_pixels(images))[:rows], class_names)

    return answer


def _adaptive(model, class_names, thresholds, freeze) -> Callable:
    """The endpoint that stops at the first exit that is sure."""
    temperatures = (
        (1.0,) * model.num_exits if thresholds is None else thresholds.temperatures
    )
    stages = (
        freeze_stages(model, temperatures, model.resolution)
        if freeze
        else cascade_stages(model, temperatures)
    )
    madds = tf.constant([row.madds for row in model.profile()], tf.int64)

    def answer(images, thresholds):
        thresholds = tf.convert_to_tensor(thresholds, tf.float32)
        message = "`thresholds` must be in [0, 1]"
        tf.debugging.assert_greater_equal(thresholds, 0.0, message)
        tf.debugging.assert_less_equal(thresholds, 1.0, message)
        rows = tf.shape(images)[0]
        logits, exits = adaptive_logits(stages, _check_pixels(images), thresholds)
        exits = exits[:rows]
        return {
            **_answer(logits[:rows], class_names),
            "exits": exits,
            "madds": tf.gather(madds, exits),
        }

    return answer


def _check_pixels(images):
    """The images, or one of zeros where there are none: oneDNN's convolutions
    fail over no rows."""
    images = tf.debugging.assert_all_finite(
        images, "`images` must hold finite pixel values"
    )
    missing = tf.maximum(1 - tf.shape(images)[0], 0)
    return tf.concat([images, tf.zeros((missing, *images.shape[1:]))], axis=0)


def _answer(logits, class_names) -> dict:
    """What every signature returns."""
    top = min(_TOP, logits.shape[-1])
    classes = tf.math.top_k(logits, top).indices
    if class_names is not None:
        classes = tf.gather(tf.constant(class_names), classes)
    return {
        "logits": logits,
        "probabilities": tf.nn.softmax(logits),
        "classes": classes,
    }


def _encoded(answer, resolution, crop_fraction) -> Callable:
    """The endpoint that takes files, in front of one that takes pixels."""

    def preprocess(picture):
        return preprocess_encoded(picture, resolution, crop_fraction)

    def answer_encoded(images, *thresholds):
        pixels = tf.map_fn(
            preprocess,
            images,
            fn_output_signature=tf.TensorSpec((resolution, resolution, 3), tf.float32),
        )
        return answer(pixels, *thresholds)

    return answer_encoded


# === Description ===


def _describe(row: ProfileRow, model, signatures, default: bool) -> dict:
    """One entry of `operating_points.json`."""
    return {
        "name": row.point.name,
        "resolution": model.resolution_of(row.point),
        "width": row.point.width,
        "exit": row.point.exit,
        # What this signature computes; in a cascade, less than an image pays
        # that was tried at all exits before.
        "madds": row.standalone_madds,
        "params": row.params,
        **_names(signatures, row.point.name, *([_DEFAULT] if default else [])),
    }


def _describe_adaptive(model, signatures, thresholds) -> dict:
    """What the adaptive signatures do."""
    names = [_ADAPTIVE]
    if thresholds is not None:
        names += [f"{_ADAPTIVE}_default", _DEFAULT]
    return {
        "exit_madds": [row.madds for row in model.profile()],
        "default_thresholds": thresholds and list(thresholds.values),
        "temperatures": thresholds and list(thresholds.temperatures),
        **_names(signatures, *names),
    }


def _names(signatures, *names) -> dict:
    encoded = [f"{name}_encoded" for name in names]
    return {
        "signatures": list(names),
        "encoded_signatures": [name for name in encoded if name in signatures],
    }


def _write_json(folder, description) -> None:
    extra = os.path.join(folder, "assets.extra")
    os.makedirs(extra, exist_ok=True)
    file = os.path.join(extra, "operating_points.json")
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(description, stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def _served_name(path: str) -> str:
    """`"pets"`, of `served/pets/1` and of `served/pets`."""
    folder, name = os.path.split(path)
    return os.path.basename(folder) if name.isdecimal() else name


# === Checks ===


def _check_class_names(class_names, num_classes) -> list[str] | None:
    if class_names is None:
        return None
    if isinstance(class_names, (str, bytes)) or not all(
        isinstance(name, str) for name in class_names
    ):
        raise ValueError(
            "`class_names` must be a sequence of strings. "
            f"Received: class_names={class_names!r}"
        )
    if len(class_names) != num_classes:
        raise ValueError(
            f"`class_names` must hold a name a class, {num_classes} names. "
            f"Received: {len(class_names)} names"
        )
    # NumPy's strings and others become plain ones, for JSON.
    return [str(name) for name in class_names]


def _check_thresholds(thresholds, model) -> Thresholds:
    if not isinstance(model, Cascade):
        raise ValueError(
            f"`thresholds` are for cascades. Received: a {type(model).__name__}"
        )
    thresholds = Thresholds.of(thresholds)
    thresholds.check(model)
    return thresholds
