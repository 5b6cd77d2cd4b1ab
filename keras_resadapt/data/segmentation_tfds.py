"""Segmentation sets of TensorFlow Datasets, read without decoding."""

import os

import tensorflow as tf

from keras_resadapt.data.segmentation_source import SegmentationSource
from keras_resadapt.data.tfds_source import (
    describe_features,
    find_split,
    fixed_shape,
    named_features,
    open_builder,
    read_records,
    shuffle_buffer,
)


def tfds_segmentation_source(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    seed: int = 0,
    class_names: tuple[str, ...] = (),
    ignore_class: int | None = 255,
) -> SegmentationSource:
    """Returns one split of a TFDS set that has images and masks.

    The set must have the features `image` and `segmentation_mask`. Labels are the
    values of the masks. Some sets count from 1, for example `oxford_iiit_pet` (1 pet,
    2 background, 3 outline): class 0 then has no pixels, and `num_classes` counts it.

    Args:
        dataset, split, data_dir, download, seed: As for `tfds_source`.
        class_names: One name per class. Empty for the names of the set, if it has any.
        ignore_class: Label of the pixels that belong to no class, or None.

    Raises:
        ValueError: For an unknown set, a set that is not prepared while `download` is
            False, a split that the set does not have, or a set without masks of
            integers.
        ImportError: If tensorflow_datasets is not installed.
    """
    builder = open_builder(dataset, data_dir, download)
    if not has_masks(builder.info):
        features = describe_features(named_features(builder.info))
        raise ValueError(
            "`dataset` must have an Image `image` and a mask `segmentation_mask` of "
            f"integers with one channel. Received: dataset={dataset!r} with {features}"
        )
    tfds_split, split_info = find_split(builder, dataset, split)
    keys = ("image", "segmentation_mask")
    records = read_records(builder, tfds_split, keys, split == "train", seed)
    mask = builder.info.features["segmentation_mask"]
    return SegmentationSource(
        name=f"{dataset}/{split}",
        records=records.map(
            lambda example: (*(example[key] for key in keys), example["tfds_id"]),
            num_parallel_calls=tf.data.AUTOTUNE,
        ),
        read=tf.identity,
        read_mask=tf.identity,
        class_names=tuple(class_names or getattr(mask, "names", None) or ()),
        num_examples=split_info.num_examples,
        image_shape=fixed_shape(builder.info.features["image"]),
        shuffle_buffer=shuffle_buffer(split_info),
        ignore_class=ignore_class,
    )


def has_masks(info) -> bool:
    """Returns whether a TFDS set has images and masks of integers."""
    import tensorflow_datasets as tfds

    features = named_features(info)
    image, mask = features.get("image"), features.get("segmentation_mask")
    return (
        isinstance(image, tfds.features.Image)
        and isinstance(mask, tfds.features.Image)
        and mask.shape[-1] == 1
        and image.dtype == mask.dtype == "uint8"
    )
