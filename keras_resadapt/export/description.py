"""The content of `operating_points.json`."""

from collections.abc import Mapping, Sequence

from keras_resadapt.export.encoded_signatures import Decoding
from keras_resadapt.export.signature import Signature
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.profile import ProfileRow


def describe(
    model: Network,
    points: Sequence[OperatingPoint],
    signatures: Mapping[str, Signature],
    class_names: list[str] | None,
    decoding: Decoding | None,
    thresholds: Thresholds | None,
) -> dict:
    """Returns the signatures of an export and their costs, for a JSON file."""
    description = {
        "model": model.name,
        "num_classes": model.num_classes,
        "class_names": class_names,
        "preprocessing": model.preprocessing.mode,
        "crop_fraction": (
            None if decoding is None or model.task.padded else decoding.crop_fraction
        ),
        "max_pixels": decoding and decoding.max_pixels,
        "operating_points": [
            _describe_point(row, model, signatures) for row in model.profile(points)
        ],
    }
    if "adaptive" in signatures:
        description["adaptive"] = _describe_adaptive(model, signatures, thresholds)
    return description


def _describe_point(row: ProfileRow, model, signatures) -> dict:
    return {
        "name": row.point.name,
        "resolution": model.resolution_of(row.point),
        "width": row.point.width,
        "exit": row.point.exit,
        # The cost of this signature. In a cascade, an image that reaches the
        # exit adaptively also pays for the classifiers of all earlier exits.
        "madds": row.standalone_madds,
        "params": row.params,
        **_signature_names(signatures, row.point.name),
    }


def _describe_adaptive(model, signatures, thresholds) -> dict:
    return {
        "exit_madds": [row.madds for row in model.profile()],
        "default_thresholds": thresholds and list(thresholds.values),
        "temperatures": thresholds and list(thresholds.temperatures),
        **_signature_names(signatures, "adaptive", "adaptive_default"),
    }


def _signature_names(signatures, *names) -> dict:
    """Returns all names of some signatures, and of their encoded variants."""
    wanted = [signatures[name] for name in names if name in signatures]
    names = [
        name
        for name, signature in signatures.items()
        if any(signature is one for one in wanted)
    ]
    encoded = [f"{name}_encoded" for name in names]
    return {
        "signatures": names,
        "encoded_signatures": [name for name in encoded if name in signatures],
    }
