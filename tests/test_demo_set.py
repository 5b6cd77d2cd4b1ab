import numpy as np
import pytest
from PIL import Image

from keras_resadapt.data import (
    ImageSource,
    demo_set,
    demo_source,
    load_source,
    save_contact_sheet,
)
from keras_resadapt.data.demo import CLASS_NAMES, LARGEST, SMALLEST


@pytest.fixture(scope="module")
def train_set():
    return demo_set("train", 1024)


def test_shapes_types_and_balance(train_set):
    images, labels, difficulty = train_set
    assert images.shape == (1024, 64, 64, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and np.bincount(labels).tolist() == [128] * len(
        CLASS_NAMES
    )
    assert 0 <= difficulty.min() < 0.02 and 0.98 < difficulty.max() <= 1


def test_same_seed_same_images_whatever_the_number(train_set):
    images, labels, difficulty = demo_set("train", 300)
    assert np.array_equal(images, train_set[0][:300])
    assert np.array_equal(labels, train_set[1][:300])
    assert np.array_equal(difficulty, train_set[2][:300])
    assert not np.array_equal(images, demo_set("train", 300, seed=1)[0])


def test_no_image_twice_and_none_in_both_splits(train_set):
    validation = demo_set("validation")[0]
    assert len(validation) == 800
    images = {image.tobytes() for image in np.concatenate([train_set[0], validation])}
    assert len(images) == 1024 + 800


def test_size_argument():
    assert demo_set("validation", 3, size=32)[0].shape == (3, 32, 32, 3)
    assert demo_set("validation", 3, size=16)[0].shape == (3, 16, 16, 3)


def test_difficulty_tells_the_size_of_the_object(train_set):
    """Plain discs have the area that the difficulty sets.

    They are found by their difference to a smooth background.
    """
    images, labels, difficulty = train_set
    plain = np.flatnonzero(
        (labels == CLASS_NAMES.index("plain_disc")) & (difficulty < 0.25)
    )
    assert len(plain) > 10
    for i in plain:
        # The rim of the image is background. Pixels that differ clearly from its
        # median belong to the object or a stroke.
        grey = images[i].astype(float).mean(-1)
        rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        area = (np.abs(grey - np.median(rim)) > 45).sum()
        radius = 0.9 * 64 * LARGEST * (SMALLEST / LARGEST) ** difficulty[i]
        assert 0.5 * np.pi * radius**2 < area < 1.3 * np.pi * radius**2 + 100


def test_low_resolution_keeps_easy_textures_and_loses_hard_ones(train_set):
    """Fine detail at 16 pixels: much is left of large objects, little of small ones."""
    images, labels, difficulty = train_set
    checked = np.isin(
        labels, [i for i, name in enumerate(CLASS_NAMES) if "checked" in name]
    )

    def kept(chosen):
        ratios = []
        for image in images[chosen]:
            small = (
                Image.fromarray(image)
                .convert("L")
                .resize((16, 16), Image.Resampling.BILINEAR)
            )
            back = np.asarray(small.resize((64, 64), Image.Resampling.BILINEAR), float)
            ratios.append(
                back.std()
                / np.asarray(Image.fromarray(image).convert("L"), float).std()
            )
        return np.median(ratios)

    assert kept(checked & (difficulty < 0.2)) > kept(checked & (difficulty > 0.8)) + 0.1


def test_source_gives_the_same_images():
    images, labels, _ = demo_set("validation", 20, seed=3)
    source = demo_source("validation", 20, seed=3)
    assert (
        isinstance(source, ImageSource)
        and source.class_names == CLASS_NAMES
        and source.num_examples == 20
    )
    read, numbers, names = zip(*source.dataset.as_numpy_iterator())
    assert np.array_equal(np.stack(read), images) and np.array_equal(numbers, labels)
    assert names[17] == b"demo/validation/00017"
    assert source.find_broken() == []


def test_load_source_knows_the_demo_set():
    assert load_source("demo", "validation").num_examples == 800


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(split="test"),
            "`split` of the demo set must be one of .*train.*validation.*='test'",
        ),
        (
            dict(split="train", num_examples=0),
            "`num_examples` must be a positive integer or None. .*num_examples=0",
        ),
        (dict(split="train", size=8), "`size` must be at least 16 .* Received: size=8"),
        (
            dict(split="train", seed=-1),
            "`seed` must be a non-negative integer. Received: seed=-1",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        demo_set(**arguments)


def test_contact_sheet(tmp_path, train_set):
    pytest.importorskip("matplotlib")
    images, labels, difficulty = (part[:100] for part in train_set)
    path = tmp_path / "sheet.png"
    save_contact_sheet(path, images, labels, difficulty, CLASS_NAMES, columns=3)
    with Image.open(path) as sheet:
        assert sheet.width < sheet.height  # 8 rows of 3 images
        # The easiest images are there in their own colors.
        easiest = images[np.argmin(np.where(labels == 0, difficulty, 2))]
        shown = {color for _, color in sheet.convert("RGB").getcolors(2**24)}
        assert (
            len(shown & {tuple(pixel) for pixel in easiest.reshape(-1, 3).tolist()})
            > 500
        )


def test_contact_sheet_bad_arguments(tmp_path, train_set):
    images, labels, difficulty = train_set
    with pytest.raises(
        ValueError, match="same length, at least 1. Received: 1024, 1023 and 1024"
    ):
        save_contact_sheet(
            tmp_path / "a.png", images, labels[1:], difficulty, CLASS_NAMES
        )
    with pytest.raises(
        ValueError, match="`columns` must be at least 2. Received: columns=1"
    ):
        save_contact_sheet(
            tmp_path / "a.png",
            images,
            labels,
            difficulty,
            CLASS_NAMES,
            columns=1,
        )
