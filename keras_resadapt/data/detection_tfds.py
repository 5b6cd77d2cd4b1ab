"""Detection sets of TensorFlow Datasets, read without decoding."""

import os

import tensorflow as tf

from keras_resadapt.data.detection_source import DetectionSource
from keras_resadapt.data.tfds_source import (
    describe_features,
    find_split,
    fixed_shape,
    named_features,
    open_builder,
    read_records,
    shuffle_buffer,
)


def tfds_detection_source(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    seed: int = 0,
) -> DetectionSource:
    """Returns one split of a TFDS set that has images and objects.

    The set must have the features `image`, and `objects` with `bbox` and `label`, as
    `coco/2017` has. The features `is_crowd`, `area` and `segmentation` of the objects
    and the feature `image/id` are used if the set has them. `segmentation` is the text
    of the compressed run lengths of COCO, for the size of the image.

    Args:
        dataset, split, data_dir, download, seed: As for `tfds_source`.

    Raises:
        ValueError: For an unknown set, a set that is not prepared while `download` is
            False, a split that the set does not have, or a set without objects.
        ImportError: If tensorflow_datasets is not installed.
    """
    builder = open_builder(dataset, data_dir, download)
    if not has_objects(builder.info):
        features = describe_features(named_features(builder.info))
        raise ValueError(
            "`dataset` must have an Image `image`, and `objects` with a BBoxFeature "
            f"`bbox` and a ClassLabel `label`. Received: dataset={dataset!r} with "
            f"{features}"
        )
    tfds_split, split_info = find_split(builder, dataset, split)
    records = read_records(builder, tfds_split, ("image",), split == "train", seed)
    features = builder.info.features
    has_masks = "segmentation" in features["objects"].feature

    kept = [
        key
        for key in ("bbox", "label", "is_crowd", "area", "segmentation")
        if key in features["objects"].feature
    ]

    def record(place, example):
        # One string per feature: records are batched, and the number of objects varies
        image_id = tf.cast(example.get("image/id", place), tf.int64)
        columns = [image_id, *(example["objects"][key] for key in kept)]
        objects = tf.stack([tf.io.serialize_tensor(column) for column in columns])
        return example["image"], objects, example["tfds_id"]

    types = {key: features["objects"].feature[key].tf_dtype for key in kept}

    def read_objects(serialized, size):
        image_id = tf.ensure_shape(tf.io.parse_tensor(serialized[0], tf.int64), [])
        objects = {
            key: tf.ensure_shape(
                tf.io.parse_tensor(serialized[place], types[key]),
                [None, 4] if key == "bbox" else [None],
            )
            for place, key in enumerate(kept, 1)
        }
        return {"image_id": image_id, **_to_pixels(objects, size)}

    return DetectionSource(
        name=f"{dataset}/{split}",
        records=records.enumerate().map(record, num_parallel_calls=tf.data.AUTOTUNE),
        read=tf.identity,
        read_objects=read_objects,
        has_masks=has_masks,
        class_names=tuple(features["objects"].feature["label"].names),
        num_examples=split_info.num_examples,
        image_shape=fixed_shape(features["image"]),
        shuffle_buffer=shuffle_buffer(split_info),
    )


def has_objects(info) -> bool:
    """Returns whether a TFDS set has images, and objects with boxes and labels."""
    import tensorflow_datasets as tfds

    features = named_features(info)
    image = features.get("image")
    objects = getattr(features.get("objects"), "feature", None)
    objects = dict(objects) if isinstance(objects, tfds.features.FeaturesDict) else {}
    return (
        isinstance(image, tfds.features.Image)
        and image.dtype == "uint8"
        and isinstance(objects.get("bbox"), tfds.features.BBoxFeature)
        and isinstance(objects.get("label"), tfds.features.ClassLabel)
    )


def _to_pixels(objects, size):
    """Returns the objects in the form of `DetectionSource.read_objects`."""
    height, width = tf.unstack(tf.cast(size, tf.float32))
    y1, x1, y2, x2 = tf.unstack(objects["bbox"], axis=1)
    boxes = tf.stack([x1 * width, y1 * height, x2 * width, y2 * height], axis=1)
    box_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    result = {
        "boxes": boxes,
        "classes": tf.cast(objects["label"], tf.int32),
        "crowd": objects.get("is_crowd", tf.zeros_like(x1, tf.bool)),
        "area": tf.cast(objects.get("area", box_area), tf.float32),
    }
    if "segmentation" in objects:
        result["masks"] = objects["segmentation"]
    return result
