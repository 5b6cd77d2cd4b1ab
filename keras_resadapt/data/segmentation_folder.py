"""Images and masks in folders."""

import os
import pathlib

import numpy as np
import tensorflow as tf

from keras_resadapt.data.class_names import read_class_names
from keras_resadapt.data.image_folder import (
    FOLDERS,
    check_split,
    file_order,
    image_files,
)
from keras_resadapt.data.segmentation_source import SegmentationSource


def segmentation_folder_source(
    folder: str | os.PathLike,
    split: str,
    seed: int = 0,
    class_names: tuple[str, ...] = (),
    ignore_class: int | None = 255,
) -> SegmentationSource:
    """Returns the images and masks of a folder.

    Images are `FOLDER/train/images/*` (jpg, jpeg, png), and masks are
    `FOLDER/train/masks/*.png` with equal names apart from the suffix. The validation
    split is in `FOLDER/val/images/` and `FOLDER/val/masks/`. Masks are grayscale PNG
    files with 8 bits per pixel, whose values are the labels. Class names are read from
    `FOLDER/class_names.txt` (one per line) if it exists.

    Args:
        folder: The folder that holds `train` and `val`.
        split: `"train"` (in an order shuffled by `seed`) or `"validation"` (sorted).
        seed: Seed of the file order of `"train"`.
        class_names: One name per class, instead of those of the file.
        ignore_class: Label of the pixels that belong to no class, or None.

    Raises:
        ValueError: For another split, a missing or empty folder, or images and masks
            whose names differ.
    """
    check_split(split)
    root = pathlib.Path(folder)
    images = _files_by_stem(root, split, "images", (".jpg", ".jpeg", ".png"))
    masks = _files_by_stem(root, split, "masks", (".png",))
    for first, second, missing in (
        ("image", "mask", images.keys() - masks.keys()),
        ("mask", "image", masks.keys() - images.keys()),
    ):
        if missing:
            names = ", ".join(os.fsdecode(stem) for stem in sorted(missing)[:10])
            raise ValueError(
                f"`dataset` must have a {second} for every {first}. Received: "
                f"dataset={str(root)!r}, where {FOLDERS[split]} has no {second} for "
                f"{len(missing)} of its {first}s: {names}"
            )
    names_file = root / "class_names.txt"
    if not class_names and names_file.is_file():
        class_names = read_class_names(names_file)
    stems = np.array(sorted(images), dtype=object)
    stems = stems[file_order(len(stems), split, seed)]
    names = [os.path.relpath(images[stem], os.fsencode(root)) for stem in stems]
    return SegmentationSource(
        name=f"{root.name}/{split}",
        records=tf.data.Dataset.from_tensor_slices(
            ([images[stem] for stem in stems], [masks[stem] for stem in stems], names)
        ),
        read=tf.io.read_file,
        read_mask=tf.io.read_file,
        class_names=tuple(class_names),
        num_examples=len(stems),
        shuffle_buffer=len(stems),  # only paths
        ignore_class=ignore_class,
    )


def is_segmentation_folder(folder: str | os.PathLike) -> bool:
    """Returns whether a folder has `train/images/` and `train/masks/`."""
    train = pathlib.Path(folder) / "train"
    return (train / "images").is_dir() and (train / "masks").is_dir()


def _files_by_stem(root, split, kind, suffixes) -> dict[bytes, bytes]:
    """Returns the path of each file by its name without the suffix."""
    folder = root / FOLDERS[split] / kind
    if not folder.is_dir():
        raise ValueError(
            "`dataset` must be a folder with SPLIT/images/ and SPLIT/masks/ for the "
            f"splits train and val. Received: dataset={str(root)!r}, which has no "
            f"folder {FOLDERS[split]}/{kind}/"
        )
    files = {}
    for path in image_files(folder, suffixes):
        stem = os.path.splitext(os.path.basename(path))[0]
        if stem in files:
            raise ValueError(
                f"`dataset` must have one file per name in {FOLDERS[split]}/{kind}/. "
                f"Received: {os.fsdecode(path)!r} and {os.fsdecode(files[stem])!r}"
            )
        files[stem] = path
    if not files:
        raise ValueError(
            f"`dataset` must have {', '.join(suffixes)} files in every folder. "
            f"Received: dataset={str(root)!r}, without files in "
            f"{FOLDERS[split]}/{kind}/"
        )
    return files
