"""One function that opens all sets of images."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_resadapt.data.coco_folder import coco_folder_source, is_coco_folder
from keras_resadapt.data.demo import (
    demo_detection_source,
    demo_segmentation_source,
    demo_source,
)
from keras_resadapt.data.detection_source import DetectionSource
from keras_resadapt.data.detection_tfds import has_objects, tfds_detection_source
from keras_resadapt.data.image_folder import image_folder_source
from keras_resadapt.data.segmentation_folder import (
    is_segmentation_folder,
    segmentation_folder_source,
)
from keras_resadapt.data.segmentation_source import SegmentationSource
from keras_resadapt.data.segmentation_tfds import (
    has_masks,
    tfds_segmentation_source,
)
from keras_resadapt.data.source import ImageSource
from keras_resadapt.data.tfds_source import (
    is_classification,
    open_builder,
    tfds_source,
)

TASKS = ("classification", "segmentation", "detection")


def load_source(
    dataset: str | os.PathLike,
    split: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    seed: int = 0,
    cache: bool = False,
    *,
    task: str | None = None,
    class_names: Sequence[str] = (),
    ignore_class: int | None = 255,
) -> ImageSource:
    """Opens one split of a set of images with labels, masks or objects.

    Args:
        dataset: `"demo"` (drawn in memory, see `demo_set`), a folder, or the name of a
            TensorFlow Datasets set. `"./demo"` is a folder of that name. For
            classification, a folder has `train/CLASS/*.jpg` and `val/CLASS/*.jpg`
            (jpg, jpeg or png). For segmentation, it has `train/images/`,
            `train/masks/`, `val/images/` and `val/masks/` (see
            `segmentation_folder_source`), and a TensorFlow Datasets set has the
            features `image` and `segmentation_mask` (see `tfds_segmentation_source`).
            For detection, a folder has the JSON files of COCO (see
            `coco_folder_source`), and a TensorFlow Datasets set has the features
            `image` and `objects` (see `tfds_detection_source`).
        split: `"train"` or `"validation"`, for TensorFlow Datasets also an expression
            such as `"train[:90%]"`.
        data_dir: Folder of the prepared TensorFlow Datasets sets. None for their
            default.
        download: Whether to download and prepare a TensorFlow Datasets set that is
            missing.
        seed: Seed of the images of the demo set, and of the order of the files of
            `"train"`.
        cache: Whether to read all encoded images into memory now. Only for sets that
            are small compared with the memory.
        task: `"classification"`, `"segmentation"` or `"detection"`. None for the task
            of the set: classification if it has class labels (as the demo set has),
            otherwise segmentation if it has masks of classes, otherwise detection.
        class_names: For segmentation, one name per class, instead of the names that
            the set has or lacks. Labels are checked if there are names.
        ignore_class: For segmentation, the label of the pixels that belong to no
            class, or None.

    Returns:
        An `ImageSource` for `training_batches` and `evaluation_batches`, or a
        `SegmentationSource` for `segmentation_training_batches` and
        `segmentation_evaluation_batches`, or a `DetectionSource` for
        `detection_training_batches` and `detection_evaluation_batches`. A
        classification set with a single class gives a warning.

    Raises:
        ValueError: For an unknown set, split or task, a folder of another structure,
            or a set that is not for the task.
        ImportError: If tensorflow_datasets or pycocotools is needed and not installed.
    """
    if not isinstance(split, str) or not split:
        raise ValueError(
            "`split` must be 'train', 'validation' or a TensorFlow Datasets split. "
            f"Received: split={split!r}"
        )
    if task not in (None, *TASKS):
        raise ValueError(f"`task` must be one of {TASKS}. Received: task={task!r}")
    path = os.fspath(dataset)
    if path != "demo" and not os.path.isdir(path):
        if path.startswith((".", os.sep, "~")) or not path:
            raise ValueError(
                "`dataset` must be 'demo', a folder with train/ and val/, or a "
                f"TensorFlow Datasets name. Received: dataset={path!r}, which is not a "
                "folder"
            )
    task = task or _find_task(path, data_dir, download)
    if task == "segmentation":
        masks = {"class_names": tuple(class_names), "ignore_class": ignore_class}
        source = _segmentation_source(path, split, data_dir, download, seed, masks)
    elif task == "detection":
        source = _detection_source(path, split, data_dir, download, seed)
    else:
        source = _classification_source(path, split, data_dir, download, seed)
        if source.num_classes == 1:
            warnings.warn(
                f"{source.name} has a single class, {source.class_names[0]!r}. Every "
                "network has an accuracy of 1 on it.",
                stacklevel=2,
            )
    return _in_memory(source) if cache and source.encoded else source


def _find_task(path, data_dir, download) -> str:
    """Returns the task of a set; see `load_source`."""
    if path == "demo":
        return "classification"
    if os.path.isdir(path):
        labels = False
        masks, objects = is_segmentation_folder(path), is_coco_folder(path)
    else:
        info = open_builder(path, data_dir, download).info
        labels = is_classification(info)
        masks, objects = has_masks(info), has_objects(info)
    if labels or not (masks or objects):
        return "classification"
    return "segmentation" if masks else "detection"


def _classification_source(path, split, data_dir, download, seed) -> ImageSource:
    if path == "demo":
        return demo_source(split, seed=seed)
    if os.path.isdir(path):
        return image_folder_source(path, split, seed)
    return tfds_source(path, split, data_dir, download, seed)


def _segmentation_source(path, split, data_dir, download, seed, masks):
    if path == "demo":
        return demo_segmentation_source(split, seed=seed)
    if os.path.isdir(path):
        return segmentation_folder_source(path, split, seed, **masks)
    return tfds_segmentation_source(path, split, data_dir, download, seed, **masks)


def _detection_source(path, split, data_dir, download, seed) -> DetectionSource:
    if path == "demo":
        return demo_detection_source(split, seed=seed)
    if os.path.isdir(path):
        return coco_folder_source(path, split, seed)
    return tfds_detection_source(path, split, data_dir, download, seed)


def _in_memory(source: ImageSource) -> ImageSource:
    """Returns the same source with its encoded images and masks in memory.

    Unreadable files become empty strings.
    """
    if isinstance(source, DetectionSource):
        return _detection_in_memory(source)
    count = source.num_examples
    targets, names = [0] * count, [b""] * count
    records = source.numbered_records.ignore_errors()
    for place, (_, target, name) in records.as_numpy_iterator():
        targets[place], names[place] = target, name
    images = _read_all(source, lambda record: source.read(record[0]))
    changes = {"read": lambda place: tf.gather(images, place)}
    if isinstance(source, SegmentationSource):
        masks = _read_all(source, lambda record: source.read_mask(record[1]))
        targets = np.arange(count)
        changes["read_mask"] = lambda place: tf.gather(masks, place)
    else:
        targets = np.array(targets, np.int64)
    return dataclasses.replace(
        source,
        records=tf.data.Dataset.from_tensor_slices((np.arange(count), targets, names)),
        shuffle_buffer=count,
        **changes,
    )


def _detection_in_memory(source: DetectionSource) -> DetectionSource:
    images = _read_all(source, lambda record: source.read(record[0]))
    records = source.numbered_records.map(
        lambda place, record: (place, record[1], record[2])
    )
    return dataclasses.replace(
        source,
        records=records.ignore_errors().cache(),
        read=lambda place: tf.gather(images, place),
        shuffle_buffer=source.num_examples,
    )


def _read_all(source: ImageSource, read: Callable) -> tf.Tensor:
    """Returns the bytes of one file per record."""
    files = [b""] * source.num_examples
    contents = source.numbered_records.map(
        lambda place, record: (place, read(record)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    for place, content in contents.ignore_errors().as_numpy_iterator():
        files[place] = content
    return tf.constant(files)
