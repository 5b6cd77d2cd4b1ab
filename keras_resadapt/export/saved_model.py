"""Export of a network as a SavedModel with one signature per operating point."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.checks import check_network, check_points
from keras_resadapt.export.checks import check_class_names, check_path
from keras_resadapt.export.description import describe
from keras_resadapt.export.detection_signatures import detection_signatures
from keras_resadapt.export.encoded_signatures import Decoding, add_encoded_signatures
from keras_resadapt.export.pixel_signatures import (
    adaptive_signatures,
    point_signature,
)
from keras_resadapt.export.signature import Signature, write_signatures
from keras_resadapt.export.warmup import write_warmup_requests
from keras_resadapt.export.whole_image_signatures import whole_image_signatures
from keras_resadapt.files import atomic_folder, write_json
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.quantization import LearnedQuantization, check_calibrated, pack

_DEFAULT = "serving_default"


def export_saved_model(
    model: Network,
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    *,
    points: Iterable[OperatingPoint] | None = None,
    encoded: bool = True,
    crop_fraction: float = 0.875,
    max_pixels: int = 50_000_000,
    model_name: str | None = None,
    warmup_batch_sizes: Sequence[int] = (1,),
    thresholds: Thresholds | Sequence[float] | None = None,
    freeze: bool = False,
    full_masks: bool = False,
) -> dict:
    """Exports a network for TensorFlow Serving or any TensorFlow runtime.

    All signatures share one copy of the weights. The weights of a network
    quantized with `LearnedQuantization` are stored with as many bits as its
    levels need. Each operating point has two signatures:

    - `<point.name>`, for example `"r160"`: `images` are float32 pixels of
      shape (batch, resolution, resolution, 3) in the value range of the
      model's preprocessing ([0, 255] for `"imagenet"` and `"unit"`). Other
      shapes, NaN, infinite values, and values so large that the logits are not
      finite raise an error.
    - `<point.name>_encoded`, for example `"r160_encoded"`: `images` are the
      bytes of JPEG or PNG files, strings of shape (batch,). The graph contains
      the evaluation preprocessing of the papers (`data.preprocess_encoded`).
      Its result is in [0, 255], also for a model with `preprocessing=None`,
      which receives these values unchanged. A file that cannot be decoded, or
      that has more than `max_pixels` pixels, raises an error.

    The signature of an exit computes nothing beyond the exit. A cascade has
    two more signatures and their `_encoded` variants:

    - `"adaptive"` takes `images` and `thresholds`, float32 of shape
      (exits - 1,) with values in [0, 1]. Each image stops at the first
      confident exit, and nothing more is computed for it. The signature also
      returns `exits`, int32, and `madds`, int64, both of shape (batch,).
      It does not work with the batching of a server, because `thresholds` has
      no batch dimension.
    - `"adaptive_default"` takes only `images` and uses the argument
      `thresholds`. It exists only if that argument is given.

    `"serving_default"` is `"adaptive_default"` if it exists; otherwise the
    first operating point, or the last exit of a cascade. Every signature
    returns `logits` and `probabilities`, float32 of shape (batch, classes),
    and `classes` of shape (batch, min(5, classes)), the most probable first:
    names, or int32 indices without `class_names`. An empty batch returns empty
    outputs. A network with a class for each pixel returns the outputs of its task
    instead, at the size of the images; its `_encoded` signatures take images of any
    size and return `classes` at the size of each image (see
    `export.whole_image_signatures`). A network with detections returns a fixed number
    of them and their `count`; both kinds of signatures take images of any size, and
    those for encoded images return boxes in pixels of the original images (see
    `export.detection_signatures`). One bad image makes the whole request fail,
    including all requests that the server put into the same batch.

    The folder also contains `assets.extra/tf_serving_warmup_requests`, which
    TensorFlow Serving runs before it accepts requests, and
    `assets.extra/operating_points.json`, a description of the signatures and
    their costs.

    Args:
        model: A network of this package, on the TensorFlow backend.
        path: The new folder, on a local disk. TensorFlow Serving expects
            `<base>/<model>/<version>`, where the version is an integer, for
            example `"served/pets/1"`; it is started with `<base>/<model>`. The
            folder appears completely or not at all.
        class_names: One name per class, in the order of the logits.
        points: The operating points to export; by default
            `model.operating_points`, the largest first.
        encoded: Whether to add the signatures that take encoded images.
        crop_fraction: For encoded images: the resolution divided by the short
            side before the center crop, in (0, 1].
        max_pixels: For encoded images: the largest accepted height times
            width. It is compared with the size in the header of the file,
            before decoding.
        model_name: The name under which the model is served, for the warm-up
            requests; by default the name of the folder, or of its parent
            if the folder is a version.
        warmup_batch_sizes: Batch sizes of the warm-up requests. Each signature
            gets one request per size. Empty for no warm-up.
        thresholds: For a cascade: the result of `inference.calibrate` or a
            sequence of numbers, for `"adaptive_default"`. The temperatures
            divide the logits in both adaptive signatures.
        freeze: Whether to store the weights as constants, once for each
            distinct signature that takes pixels. TensorFlow then optimizes
            them once and not in every request. A small network has about a
            third of the latency at batch size 1, and the file grows with the
            number of signatures. Not for a network with detections.
        full_masks: For a network with detections and masks: whether to return
            `full_masks` too, masks at the size of the images.

    Returns:
        The content of `operating_points.json`.

    Raises:
        RuntimeError: On any backend other than TensorFlow.
        TypeError: If `model` is not a network of this package.
        FileExistsError: If something exists at `path`.
        ValueError: If an argument is outside its range.
    """
    require_tensorflow("export_saved_model")
    check_network(model)
    path = check_path(path)
    class_names = check_class_names(class_names, model.num_classes)
    points = check_points(points, model, unique=True)
    thresholds = _check_thresholds(thresholds, model)
    decoding = Decoding(crop_fraction, max_pixels) if encoded else None
    model = _check_quantization(model, points)

    os.makedirs(os.path.dirname(path), exist_ok=True)
    respond = functools.partial(model.task.response, class_names=class_names)
    _check_detection(model, freeze, full_masks)
    if model.task.padded:
        signatures = detection_signatures(model, points, respond, decoding, full_masks)
        for suffix in ("", "_encoded") if encoded else ("",):
            signatures[_DEFAULT + suffix] = signatures[points[0].name + suffix]
    else:
        signatures = _build_signatures(model, points, thresholds, respond, freeze)
        if decoding is not None:
            signatures = _with_encoded(model, points, signatures, decoding)
    description = describe(model, points, signatures, class_names, decoding, thresholds)
    # A server that watches the parent folder loads any version that appears
    # there, so that the folder must be complete from the start.
    with atomic_folder(path) as folder:
        write_signatures(signatures, folder)
        write_warmup_requests(
            folder,
            model_name or _served_name(path),
            {name: signature.specs for name, signature in signatures.items()},
            warmup_batch_sizes,
        )
        extra = os.path.join(folder, "assets.extra")
        os.makedirs(extra, exist_ok=True)
        write_json(os.path.join(extra, "operating_points.json"), description)
    return description


def _build_signatures(
    model, points, thresholds, respond, freeze
) -> Mapping[str, Signature]:
    """Returns the signatures that take pixels, by name."""
    signatures = {
        point.name: point_signature(model, point, respond, freeze) for point in points
    }
    default = points[0].name
    if isinstance(model, Cascade):
        signatures |= adaptive_signatures(model, thresholds, respond, freeze)
        default = points[-1].name if thresholds is None else "adaptive_default"
    return {**signatures, _DEFAULT: signatures[default]}


def _with_encoded(model, points, signatures, decoding) -> dict[str, Signature]:
    """Adds the signatures that take encoded images."""
    if not model.task.any_shape:
        return add_encoded_signatures(signatures, decoding)
    whole = whole_image_signatures(model, points, decoding)
    whole = {**whole, _DEFAULT: whole[points[0].name]}
    return {**signatures, **{f"{name}_encoded": whole[name] for name in whole}}


def _check_detection(model, freeze: bool, full_masks: bool) -> None:
    if full_masks and not getattr(model.task, "masks", False):
        raise ValueError(
            "`full_masks` must be False for a network without masks of objects. "
            f"Received: full_masks={full_masks} for {model.task}"
        )
    if freeze and model.task.padded:
        raise ValueError(
            "`freeze` must be False for a network with detections, whose images have "
            f"any size. Received: freeze={freeze}"
        )


def _served_name(path: str) -> str:
    """Returns `"pets"` for both `served/pets/1` and `served/pets`."""
    folder, name = os.path.split(path)
    return os.path.basename(folder) if name.isdecimal() else name


def _check_thresholds(thresholds, model) -> Thresholds | None:
    if thresholds is None:
        return None
    if not isinstance(model, Cascade):
        raise ValueError(
            "`thresholds` are for cascades and must be None for other networks. "
            f"Received: a model of type {type(model).__name__}"
        )
    thresholds = Thresholds.of(thresholds)
    thresholds.check(model)
    return thresholds


def _check_quantization(model, points) -> Network:
    """Returns the network to export, with packed weights where possible."""
    scheme = model.scheme
    if scheme is None:
        return model
    if isinstance(scheme, LearnedQuantization) and not scheme.packed:
        model = pack(model)
    check_calibrated(model, points)
    return model
