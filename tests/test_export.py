"""The exported SavedModel: the same outputs from one copy of the weights."""

import json
import os
import stat
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from example_scripts import check_script, script

import keras_resadapt
from keras_resadapt import export
from keras_resadapt.data import preprocess_encoded
from keras_resadapt.export.warmup import write_warmup_requests

NAMES = [f"class {i} é" for i in range(7)]
SIGNATURES = [
    "r32",
    "r32_encoded",
    "serving_default",
    "serving_default_encoded",
    "r24",
    "r24_encoded",
    "r16",
    "r16_encoded",
]


def tiny_model(resolutions=(32, 24, 16), filters=(8, 16), **kwargs):
    """Returns a network whose BatchNormalization layers all differ."""
    keras.utils.set_random_seed(0)
    model = keras_resadapt.RSNet18(
        num_classes=7,
        resolutions=resolutions,
        depths=(1, 1),
        filters=filters,
        stem="small",
        **kwargs,
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def pixels(rows, size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (rows, size, size, 3)).astype("float32")


def pictures():
    """Returns encoded images of several sizes and formats."""
    rng = np.random.default_rng(0)

    def noise(*shape):
        return tf.constant(rng.integers(0, 256, shape), tf.uint8)

    return [
        tf.io.encode_jpeg(noise(40, 60, 3)).numpy(),
        tf.io.encode_png(noise(50, 35, 3)).numpy(),
        tf.io.encode_png(noise(64, 64, 1)).numpy(),
    ]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "pets" / "3"
    export.export_saved_model(
        model, path, NAMES, crop_fraction=0.9, warmup_batch_sizes=(1, 2)
    )
    return path


@pytest.fixture(scope="module")
def signatures(path):
    return tf.saved_model.load(str(path)).signatures


# === Outputs ===


@pytest.mark.parametrize("rows", [1, 3])
def test_pixel_signatures_equal_the_model(model, signatures, rows):
    for point in model.operating_points:
        images = pixels(rows, point.resolution)
        logits = np.array(model.logits(images, point))
        outputs = signatures[point.name](images=tf.constant(images))
        assert set(outputs) == {"logits", "probabilities", "classes"}
        np.testing.assert_allclose(outputs["logits"], logits, atol=1e-5)
        np.testing.assert_allclose(
            outputs["probabilities"], tf.nn.softmax(logits), atol=1e-6
        )
        best = np.argsort(-logits, axis=-1)[:, :5]
        expected = [[NAMES[i].encode() for i in row] for row in best]
        assert outputs["classes"].numpy().tolist() == expected


def test_the_points_differ(model):
    """Otherwise the test above could not detect exchanged statistics."""
    features = [
        layer.moving_mean.value.numpy()
        for layer in model._flatten_layers()
        if isinstance(layer, keras_resadapt.layers.BatchNormalization)
    ]
    assert len({f.tobytes() for f in features}) == len(features) > 6


def test_encoded_signatures_equal_preprocessing_and_model(model, signatures):
    files = pictures()
    for point in model.operating_points:
        images = tf.stack([preprocess_encoded(f, point.resolution, 0.9) for f in files])
        outputs = signatures[f"{point.name}_encoded"](images=tf.constant(files))
        np.testing.assert_allclose(
            outputs["logits"], model.logits(images, point), atol=1e-5
        )
        assert outputs["classes"].shape == (3, 5)


def test_default_is_the_largest(signatures):
    images = tf.constant(pixels(2, 32))
    np.testing.assert_array_equal(
        signatures["serving_default"](images=images)["logits"],
        signatures["r32"](images=images)["logits"],
    )
    files = tf.constant(pictures())
    np.testing.assert_array_equal(
        signatures["serving_default_encoded"](images=files)["logits"],
        signatures["r32_encoded"](images=files)["logits"],
    )


@pytest.mark.parametrize("name", ["r24", "r24_encoded"])
def test_empty_batch_gives_empty_outputs(signatures, name):
    spec = signatures[name].structured_input_signature[1]["images"]
    images = tf.zeros((0, *spec.shape[1:]), spec.dtype)
    outputs = signatures[name](images=images)
    shapes = {key: tuple(value.shape) for key, value in outputs.items()}
    assert shapes == {
        "logits": (0, 7),
        "probabilities": (0, 7),
        "classes": (0, 5),
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused(signatures, bad):
    images = pixels(2, 16)
    images[1, 3, 4, 0] = bad
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite pixel"):
        signatures["r16"](images=tf.constant(images))


@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (2, 24, 20, 3), (24, 24, 3)])
def test_images_of_another_size_are_refused(signatures, shape):
    """The error names the argument, the shape received and the shape expected."""
    received = r"\[" + ",".join(map(str, shape)) + r"\]"
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=rf"images {received}.*\[\?,24,24,3\]"
    ):
        signatures["r24"](images=tf.zeros(shape))


def test_pixels_far_outside_the_value_range_are_refused(signatures):
    images = pixels(2, 16)
    images[1] = 3e38
    with pytest.raises(tf.errors.InvalidArgumentError, match="value range"):
        signatures["r16"](images=tf.constant(images))


def test_files_that_do_not_decode_are_refused(signatures):
    jpeg = pictures()[0]
    for bad, message in (
        (b"", "must be a JPEG, PNG"),
        (b"no picture", "must be a JPEG, PNG"),
        (jpeg[: len(jpeg) // 2], "Invalid JPEG"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signatures["r16_encoded"](images=tf.constant([jpeg, bad]))


def test_names_and_types_that_clients_see(signatures):
    assert sorted(signatures) == sorted(SIGNATURES)
    for name in SIGNATURES:
        _, inputs = signatures[name].structured_input_signature
        assert list(inputs) == ["images"]
        spec = inputs["images"]
        outputs = signatures[name].structured_outputs
        assert outputs["logits"].dtype == tf.float32
        assert outputs["probabilities"].dtype == tf.float32
        assert outputs["classes"].dtype == tf.string
        encoded = name.endswith("_encoded")
        assert spec.dtype == (tf.string if encoded else tf.float32)
        assert spec.shape.rank == (1 if encoded else 4)
        assert spec.shape[0] is None


@pytest.mark.slow
def test_new_process_needs_only_tensorflow(path, model, tmp_path):
    images, files = pixels(3, 24), pictures()
    np.save(tmp_path / "images.npy", images)
    for i, file in enumerate(files):
        (tmp_path / f"{i}.picture").write_bytes(file)
    script = f"""
        import sys
        # TensorFlow imports Keras where it can: make sure that it cannot.
        sys.modules["keras"] = sys.modules["keras_resadapt"] = None
        import numpy as np
        import tensorflow as tf
        signatures = tf.saved_model.load({str(path)!r}).signatures
        images = tf.constant(np.load("images.npy"))
        files = tf.stack([tf.io.read_file(f"{{i}}.picture") for i in range(3)])
        np.savez(
            "outputs.npz",
            pixels=signatures["r24"](images=images)["logits"],
            encoded=signatures["r24_encoded"](images=files)["logits"],
            none=signatures["r24"](images=images[:0])["logits"],
        )
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        # Not the default on all processors; its convolutions fail with empty
        # batches.
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"},
        check=True,
        timeout=120,
    )
    outputs = np.load(tmp_path / "outputs.npz")
    point = model.operating_points[1]
    np.testing.assert_allclose(
        outputs["pixels"], model.logits(images, point), atol=1e-5
    )
    views = tf.stack([preprocess_encoded(f, 24, 0.9) for f in files])
    np.testing.assert_allclose(
        outputs["encoded"], model.logits(views, point), atol=1e-5
    )
    assert outputs["none"].shape == (0, 7)


# === Variants ===


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(dtype, tmp_path):
    keras.config.set_dtype_policy(dtype)
    try:
        model = tiny_model(resolutions=(16,))
    finally:
        keras.config.set_dtype_policy("float32")
    export.export_saved_model(
        model, tmp_path / "1", encoded=False, warmup_batch_sizes=()
    )
    signature = tf.saved_model.load(str(tmp_path / "1")).signatures["r16"]
    images = pixels(3, 16)
    outputs = signature(images=tf.constant(images))
    assert outputs["logits"].dtype == tf.float32
    assert outputs["probabilities"].dtype == tf.float32
    np.testing.assert_allclose(
        outputs["logits"],
        model.logits(images, model.operating_points[0]),
        atol=0.05,
    )


def test_few_classes_no_names_no_preprocessing_no_warmup(tmp_path):
    model = keras_resadapt.RSNet18(
        num_classes=3,
        resolutions=(16,),
        preprocessing=None,
        depths=(1, 1),
        filters=(8, 16),
        stem="small",
    )
    point = model.operating_points[0]
    description = export.export_saved_model(
        model,
        tmp_path / "1",
        warmup_batch_sizes=(),
        crop_fraction=np.float32(0.875),
        max_pixels=np.int64(64 * 64),
    )
    assert description["preprocessing"] is description["class_names"] is None
    assert description["max_pixels"] == 64 * 64
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    files = pictures()
    outputs = signatures["r16_encoded"](images=tf.constant(files))
    # Without preprocessing, the model receives the pixels in [0, 255].
    views = tf.stack([preprocess_encoded(f, 16) for f in files])
    logits = np.array(model.logits(views, point))
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-5, atol=1e-5)
    assert outputs["classes"].dtype == tf.int32
    np.testing.assert_array_equal(outputs["classes"], np.argsort(-logits, axis=-1))
    large = tf.io.encode_png(tf.zeros((65, 64, 3), tf.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels=4096.*65"):
        signatures["r16_encoded"](images=large[None])
    with pytest.raises(FileNotFoundError, match="warmup_batch_sizes"):
        export.replay_warmup(tmp_path / "1")


def test_weights_are_stored_once(tmp_path):
    model = tiny_model(resolutions=(32, 16), filters=(16, 256))
    for name, points in (("all", None), ("one", model.operating_points[:1])):
        export.export_saved_model(
            model,
            tmp_path / name,
            points=points,
            encoded=False,
            warmup_batch_sizes=(),
        )

    def size(name):
        files = (tmp_path / name).rglob("*")
        return sum(f.stat().st_size for f in files if f.is_file())

    assert size("all") < 1.1 * size("one")
    weights = 4 * sum(np.prod(v.shape) for v in model.variables)
    stored = (tmp_path / "all" / "variables").glob("*.data-*")
    assert sum(f.stat().st_size for f in stored) < 1.02 * weights


def test_frozen_weights_give_the_same_outputs(model, tmp_path):
    point = model.operating_points[2]
    export.export_saved_model(
        model,
        tmp_path / "1",
        points=[point],
        encoded=False,
        freeze=True,
        warmup_batch_sizes=(),
    )
    signature = tf.saved_model.load(tmp_path / "1").signatures["r16"]
    images = pixels(3, 16)
    np.testing.assert_allclose(
        signature(images=images)["logits"],
        model.logits(images, point),
        rtol=1e-4,
        atol=1e-5,
    )


# === Warm-up and description ===


def test_warmup_replays_through_every_signature(path):
    names = export.replay_warmup(path)
    assert sorted(names) == sorted(2 * SIGNATURES)


def test_warmup_records(path):
    from tensorflow_serving.apis import prediction_log_pb2

    file = str(path / "assets.extra" / "tf_serving_warmup_requests")
    shapes = {}
    for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        assert request.model_spec.name == "pets"
        images = tf.make_ndarray(request.inputs["images"])
        shapes.setdefault(request.model_spec.signature_name, []).append(images.shape)
    assert shapes["r24"] == [(1, 24, 24, 3), (2, 24, 24, 3)]
    assert shapes["r24_encoded"] == [(1,), (2,)]


def test_operating_points_json(path, model):
    file = path / "assets.extra" / "operating_points.json"
    description = json.loads(file.read_text(encoding="utf-8"))
    points = description.pop("operating_points")
    assert description == {
        "model": "rsnet18",
        "num_classes": 7,
        "class_names": NAMES,
        "preprocessing": "imagenet",
        "crop_fraction": 0.9,
        "max_pixels": 50_000_000,
    }
    assert [point["name"] for point in points] == ["r32", "r24", "r16"]
    rows = model.profile()
    assert [point["madds"] for point in points] == [row.madds for row in rows]
    assert [point["params"] for point in points] == [row.params for row in rows]
    assert points[1] == {
        "name": "r24",
        "resolution": 24,
        "width": None,
        "exit": None,
        "madds": rows[1].madds,
        "params": rows[1].params,
        "signatures": ["r24"],
        "encoded_signatures": ["r24_encoded"],
    }
    listed = [
        name
        for point in points
        for name in point["signatures"] + point["encoded_signatures"]
    ]
    assert sorted(listed) == sorted(SIGNATURES)


def test_only_the_version_appears_and_others_may_read_it(path):
    assert os.listdir(path.parent) == ["3"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755 & ~umask


# === Errors ===


def refuses(error, match, *args, **kwargs):
    with pytest.raises(error, match=match):
        export.export_saved_model(*args, **kwargs)


def test_bad_path(model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "link"):
        refuses(FileExistsError, name, model, tmp_path / name)
    refuses(OSError, "file", model, tmp_path / "file" / "1")
    refuses(ValueError, "local disk", model, "gs://bucket/pets/1")
    refuses(ValueError, "local disk", model, "")
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "link"]


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (ValueError, "7 names. Received: 2 names", {"class_names": ["a", "b"]}),
        (ValueError, "sequence of strings", {"class_names": "abcdefg"}),
        (ValueError, "sequence of strings", {"class_names": range(7)}),
        (ValueError, "crop_fraction", {"crop_fraction": 0}),
        (ValueError, "crop_fraction", {"crop_fraction": 1.5}),
        (ValueError, "`max_pixels` must be a positive", {"max_pixels": 0}),
        (ValueError, "`max_pixels` must be a positive", {"max_pixels": 1e6}),
        (ValueError, "points", {"points": []}),
        (ValueError, "points", {"points": [32]}),
    ],
)
def test_bad_arguments(model, tmp_path, error, match, arguments):
    refuses(error, match, model, tmp_path / "1", **arguments)
    assert not os.listdir(tmp_path)


def test_failure_leaves_nothing(model, tmp_path):
    """The warm-up requests are written after the SavedModel."""
    points = model.operating_points[2:]
    refuses(
        ValueError,
        "warmup_batch_sizes",
        model,
        tmp_path / "1",
        points=points,
        encoded=False,
        warmup_batch_sizes=[1] * 1001,
    )
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("sizes", [(0,), (1.5,)])
def test_bad_warmup_batch_sizes(sizes, tmp_path):
    with pytest.raises(ValueError, match="warmup_batch_sizes"):
        write_warmup_requests(tmp_path, "pets", {}, sizes)


def test_other_models_and_backends(model, tmp_path, monkeypatch):
    refuses(TypeError, "`model`", keras.Sequential(), tmp_path / "1")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    refuses(RuntimeError, "'jax'", model, tmp_path / "1")
    assert not os.listdir(tmp_path)


def test_replay_without_an_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="warm-up"):
        export.replay_warmup(tmp_path)


# === The example ===


def test_example(tmp_path):
    model = tiny_model(resolutions=(24, 16))
    model.compile(metrics=["accuracy"])  # like a trained model
    model.save(tmp_path / "pets.keras")
    names = "\n".join(NAMES) + "\n"
    (tmp_path / "pets.txt").write_text(names, encoding="utf-8")
    output = tmp_path / "pets" / "1"
    printed = check_script(
        "export_savedmodel",
        f"--model={tmp_path / 'pets.keras'}",
        f"--output={output}",
        f"--class_names={tmp_path / 'pets.txt'}",
    )
    madds = [f"{row.madds / 1e6:.1f}" for row in model.profile()]
    for text in ("r24_encoded", "docker run", "MODEL_NAME=pets", *madds):
        assert text in printed
    assert f'-v "{tmp_path / "pets"}:/models/pets"' in printed
    assert sorted(set(export.replay_warmup(output))) == [
        "r16",
        "r16_encoded",
        "r24",
        "r24_encoded",
        "serving_default",
        "serving_default_encoded",
    ]
    with script("export_savedmodel") as example:
        assert "integer" in example.next_steps("served/pets")
