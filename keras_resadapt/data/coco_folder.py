"""Images in folders, and their objects in the JSON files of COCO."""

import collections
import json
import math
import os
import pathlib

import numpy as np
import tensorflow as tf

from keras_resadapt.data.detection_source import DetectionSource
from keras_resadapt.data.image_folder import FOLDERS, check_split, file_order


def coco_folder_source(
    folder: str | os.PathLike, split: str, seed: int = 0
) -> DetectionSource:
    """Returns the images and objects of a folder in the layout of COCO.

    Objects are in `FOLDER/annotations/instances_train.json`, and images in
    `FOLDER/train/`. The validation split has `val` in both names. The names can have a
    suffix, as `instances_train2017.json` and `train2017/` have. Polygons and run
    lengths are read with `pycocotools`. Classes are the categories of the file, in the
    order of their numbers.

    Args:
        folder: The folder that holds `annotations`.
        split: `"train"` (in an order shuffled by `seed`) or `"validation"` (in the
            order of the file).
        seed: Seed of the order of `"train"`.

    Raises:
        ValueError: For another split, a missing or invalid file, an image that has no
            file, an object whose image or category is not in the file, a box that is
            not four numbers, a polygon that has fewer than three points, or a mask of
            another size than its image. The message has the number of the object.
        ImportError: If there are masks and pycocotools is not installed.
    """
    check_split(split)
    root = pathlib.Path(folder)
    path, images_folder = _find_files(root, split)
    content = _read_json(path)
    _check_files(root, path, images_folder, content["images"])
    images, categories = content["images"], content["categories"]
    class_of = {
        category["id"]: place
        for place, category in enumerate(sorted(categories, key=lambda c: c["id"]))
    }
    objects = _collect_objects(path, content, class_of)
    ids = np.array([image["id"] for image in images], np.int64)
    order = file_order(len(images), split, seed)
    names = np.array([image["file_name"].encode() for image in images], object)
    prefix = os.fsencode(images_folder) + b"/"

    return DetectionSource(
        name=f"{root.name}/{split}",
        records=tf.data.Dataset.from_tensor_slices(
            ([prefix + name for name in names[order]], order, names[order])
        ),
        read=tf.io.read_file,
        read_objects=_make_reader(objects, images, ids),
        has_masks=objects["masks"] is not None,
        class_names=tuple(
            category["name"] for category in sorted(categories, key=lambda c: c["id"])
        ),
        num_examples=len(images),
        shuffle_buffer=len(images),  # only paths
    )


def is_coco_folder(folder: str | os.PathLike) -> bool:
    """Returns whether a folder has `annotations/instances_train*.json`."""
    annotations = pathlib.Path(folder) / "annotations"
    return any(annotations.glob("instances_train*.json"))


def _find_files(root, split) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the JSON file and the folder of the images."""
    start = f"instances_{FOLDERS[split]}"
    found = sorted((root / "annotations").glob(f"{start}*.json"))
    if len(found) != 1:
        raise ValueError(
            f"`dataset` must have one file annotations/{start}*.json. Received: "
            f"dataset={str(root)!r} with {[path.name for path in found]}"
        )
    images_folder = root / found[0].stem.removeprefix("instances_")
    if not images_folder.is_dir():
        raise ValueError(
            f"`dataset` must have the images of annotations/{found[0].name} in "
            f"{images_folder.name}/. Received: dataset={str(root)!r} without it"
        )
    return found[0], images_folder


def _read_json(path) -> dict:
    """Returns the content of a file, with valid images and categories."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} must be a JSON file. {error}") from error
    parts = ("images", "annotations", "categories")
    lists = isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in parts
    )
    if not lists or not content["images"] or not content["categories"]:
        found = f"a {type(content).__name__}"
        if isinstance(content, dict):
            found = f"{sorted(content)}"
        raise ValueError(
            f"{str(path)!r} must have the lists `images`, `annotations` and "
            "`categories`, with at least one image and one category. Received: "
            f"{found}"
        )
    _check_entries(
        path,
        "images",
        content["images"],
        _is_image,
        "an integer `id`, a `file_name`, and `height` and `width` in pixels",
    )
    _check_entries(
        path,
        "categories",
        content["categories"],
        _is_category,
        "an integer `id` and a `name`",
    )
    return content


def _check_entries(path, part: str, entries: list, is_valid, rule: str) -> None:
    """Raises a `ValueError` for an invalid entry, or for two with one number."""
    for entry in entries:
        if not isinstance(entry, dict) or not is_valid(entry):
            raise ValueError(
                f"Every entry of `{part}` must have {rule}. Received: {entry!r} in "
                f"{str(path)!r}"
            )
    counts = collections.Counter(entry["id"] for entry in entries)
    number, count = counts.most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"Every entry of `{part}` must have a unique `id`. Received: {count} "
            f"entries with id={number} in {str(path)!r}"
        )


def _is_image(entry: dict) -> bool:
    name, sides = entry.get("file_name"), (entry.get("height"), entry.get("width"))
    return (
        _is_integer(entry.get("id"))
        and isinstance(name, str)
        and name != ""
        and all(_is_integer(side) and side > 0 for side in sides)
    )


def _is_category(entry: dict) -> bool:
    return _is_integer(entry.get("id")) and isinstance(entry.get("name"), str)


def _check_files(root, path, folder, images) -> None:
    """Raises a `ValueError` if a file of an image is missing."""
    # One call for all files, except for those in folders of their own.
    present = set(os.listdir(folder))
    names = [image["file_name"] for image in images]
    missing = [n for n in names if n not in present and not (folder / n).is_file()]
    if missing:
        raise ValueError(
            f"`dataset` must have the files of all images of {path.name} in "
            f"{folder.name}/. Received: dataset={str(root)!r} without {len(missing)} "
            f"of {len(names)} files, such as {missing[0]!r}"
        )


def _collect_objects(path, content, class_of) -> dict:
    """Returns the objects of all images as arrays, sorted by image."""
    images = {image["id"]: place for place, image in enumerate(content["images"])}
    by_image = collections.defaultdict(list)
    with_masks = any(one.get("segmentation") for one in content["annotations"])
    for one in content["annotations"]:
        _check_annotation(path, one, images, class_of)
        by_image[images[one["image_id"]]].append(one)
    annotations = [one for place in range(len(images)) for one in by_image[place]]
    boxes = np.array([one["bbox"] for one in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = None
    if with_masks:
        masks = np.array(
            [
                _run_lengths(path, one, content["images"][images[one["image_id"]]])
                for one in annotations
            ],
            object,
        )
    counts = [len(by_image[place]) for place in range(len(images))]
    return {
        "boxes": boxes,
        "classes": np.array(
            [class_of[one["category_id"]] for one in annotations], np.int32
        ),
        "crowd": np.array([bool(one.get("iscrowd")) for one in annotations], bool),
        "area": np.array(
            [one.get("area", one["bbox"][2] * one["bbox"][3]) for one in annotations],
            np.float32,
        ),
        "masks": masks,
        "splits": np.cumsum([0, *counts], dtype=np.int64),
    }


def _check_annotation(path, annotation, images, class_of):
    if not isinstance(annotation, dict):
        raise ValueError(
            "Every annotation must be a dict. Received: "
            f"{annotation!r} in {str(path)!r}"
        )
    for key, known in (("image_id", images), ("category_id", class_of)):
        value = annotation.get(key)
        if not _is_integer(value) or value not in known:
            raise _fault(path, annotation, key, "be in the file")
    box = annotation.get("bbox")
    if not _is_numbers(box) or len(box) != 4:
        raise _fault(path, annotation, "bbox", "be [x, y, width, height] in pixels")
    if not _is_numbers([annotation.get("area", 0)]):
        raise _fault(path, annotation, "area", "be a number of pixels")


def _fault(path, annotation, key: str, rule: str) -> ValueError:
    """Returns the error of a value that does not follow its rule."""
    value = repr(annotation.get(key))
    if len(value) > 200:
        value = f"{value[:200]}..."
    return ValueError(
        f"`{key}` of every annotation must {rule}. Received: {key}={value} of "
        f"annotation {annotation.get('id')} in {str(path)!r}"
    )


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_numbers(values) -> bool:
    """Returns whether this is a list of finite numbers."""
    return isinstance(values, list) and all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in values
    )


def _run_lengths(path, annotation, image) -> bytes:
    """Returns the compressed run lengths of polygons or of run lengths."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            "Masks in the format of COCO are read with pycocotools: "
            "`pip install pycocotools`."
        ) from error

    size = [image["height"], image["width"]]
    segmentation = annotation.get("segmentation") or []
    if isinstance(segmentation, dict):
        counts = _check_run_lengths(path, annotation, size)
        if isinstance(counts, list):
            return mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
        return counts.encode()
    if not segmentation:  # no mask: an empty one
        return mask.encode(np.zeros(size, np.uint8, order="F"))["counts"]
    if not isinstance(segmentation, list) or not all(
        _is_numbers(polygon) and len(polygon) >= 6 and len(polygon) % 2 == 0
        for polygon in segmentation
    ):
        rule = "be run lengths or polygons [x1, y1, x2, y2, ...] of at least 3 points"
        raise _fault(path, annotation, "segmentation", rule)
    return mask.merge(mask.frPyObjects(segmentation, *size))["counts"]


def _check_run_lengths(path, annotation, size: list[int]) -> str | list[int]:
    """Returns the run lengths of an annotation, or raises a `ValueError`.

    Compressed ones are validated when they are decoded.
    """
    segmentation = annotation["segmentation"]
    if segmentation.get("size") != size:
        raise ValueError(
            "A mask must have the size of its image. Received: size="
            f"{segmentation.get('size')} of annotation {annotation.get('id')} in "
            f"{str(path)!r}, whose image has {size}"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        whole = all(_is_integer(count) and count >= 0 for count in counts)
        if whole and sum(counts) == size[0] * size[1]:
            return counts
    elif isinstance(counts, str) and counts.isascii():
        return counts
    rule = f"have run lengths that add up to the size of the image, {size}"
    raise _fault(path, annotation, "segmentation", rule)


def _make_reader(objects, images, ids):
    """Returns the graph function `read_objects` of the source."""
    # Tensors made here are inputs of the graph, and not constants in it, whose size is
    # limited.
    splits, ids = tf.constant(objects["splits"]), tf.constant(ids)
    sizes = tf.constant([[image["height"], image["width"]] for image in images])
    columns = {
        key: tf.constant(values)
        for key, values in objects.items()
        if key != "splits" and values is not None
    }

    def read_objects(place, size):
        first, last = tf.unstack(tf.gather(splits, [place, place + 1]))
        found = {key: values[first:last] for key, values in columns.items()}
        return {
            "image_id": tf.gather(ids, place),
            "annotated_size": tf.gather(sizes, place),
            **found,
        }

    return read_objects
