"""Scoring of many images by Ray and by Beam, and without them."""

import gzip
import importlib.util
import os
import shutil
import signal
import sys

import example_scripts
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, make_tiny_cascade, randomize
from example_scripts import check_script, run_script

from keras_resadapt import data, export

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'ray' or 'beam'")
parquet = pytest.importorskip("pyarrow.parquet")

SIGNATURE = "adaptive_default_encoded"


def needs(package, extra):
    """Skips a test before its fixtures are made, and does not import the package.

    Ray reads variables that the script sets before it imports Ray.
    """
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs the extra {extra!r}")


needs_ray = needs("ray", "ray")
needs_beam = needs("apache_beam", "beam")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with 17 images of mixed sizes, three of which are broken."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    rng = np.random.default_rng(0)
    for i in range(14):
        image = rng.integers(0, 256, (*rng.integers(20, 50, 2), 3)).astype("uint8")
        encode = tf.io.encode_png if i % 2 else tf.io.encode_jpeg
        path = folder / ("sub" if i < 4 else "") / f"{i:02} %23#.jpg"
        path.write_bytes(encode(image).numpy())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xffnonsense")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.bmp").write_bytes(b"text")
    (folder / ".hidden.jpg").write_bytes(b"")
    (folder / "labels.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory, images):
    """An exported cascade. Half of the images stop at its first exit."""
    keras.utils.set_random_seed(1)
    model = randomize(make_tiny_cascade())
    encoded = [path.read_bytes() for path in images.rglob("*#.jpg")]
    pixels = tf.stack([data.preprocess_encoded(one, 32, 0.875) for one in encoded])
    logits = model.logits(pixels, model.operating_points[0])
    median = float(np.median(tf.nn.softmax(logits).numpy().max(axis=1)))
    path = tmp_path_factory.mktemp("served") / "1"
    export.export_saved_model(
        model, path, list("abcde"), thresholds=[median, 1.0], warmup_batch_sizes=()
    )
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory, images):
    """A folder with a TFRecord file of six images, and a damaged one of two."""
    folder = tmp_path_factory.mktemp("records")
    paths = sorted(images.glob("*#.jpg"))[:6]
    whole = folder / "a.tfrecord-00000-of-00001"
    write_records(whole, [path.read_bytes() for path in paths])
    damaged = folder / "b.tfrecord"
    write_records(damaged, [path.read_bytes() for path in paths[:3]])
    damaged.write_bytes(damaged.read_bytes()[:-10])
    return folder


def write_records(path, images, feature="image/encoded"):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
            features = tf.train.Features(feature={feature: value})
            example = tf.train.Example(features=features)
            writer.write(example.SerializeToString())


@pytest.fixture
def examples(monkeypatch):
    """Imports a module of the examples by its name."""
    monkeypatch.syspath_prepend(example_scripts.EXAMPLES)
    return importlib.import_module


@pytest.fixture(scope="module")
def expected(served):
    """Returns the class, probability, exit and cost of an image file."""
    signature = tf.saved_model.load(str(served)).signatures[SIGNATURE]

    def result_of(content):
        outputs = signature(images=tf.constant([content]))
        probabilities = outputs["probabilities"][0].numpy()
        index = int(probabilities.argmax())
        return {
            "class_index": index,
            "class_name": "abcde"[index],
            "probability": float(probabilities[index]),
            "operating_point": f"exit{int(outputs['exits'][0])}",
            "exit": int(outputs["exits"][0]),
            "madds": int(outputs["madds"][0]),
            "error": None,
        }

    return result_of


def read(output):
    """Returns the rows of all results, in the order of the blocks."""
    parts = sorted(output.glob("part-*"))
    return [row for part in parts for row in parquet.read_table(part).to_pylist()]


def check_images(rows, images, expected):
    """Checks that each image of the folder has one row, equal to a single process."""
    by_key = {row["key"]: row for row in rows}
    paths = {
        str(p): p for p in images.rglob("*") if p.suffix in (".jpg", ".png", ".bmp")
    }
    paths.pop(str(images / ".hidden.jpg"))
    assert len(rows) == len(by_key) and set(by_key) == set(paths)
    reasons = {
        "broken.jpg": "Invalid JPEG",
        "empty.png": "JPEG, PNG",
        "text.bmp": "JPEG",
    }
    for key, path in paths.items():
        row = by_key[key]
        if path.name in reasons:
            assert reasons[path.name] in row["error"] and "\n" not in row["error"]
            assert row["class_index"] is row["exit"] is row["madds"] is None
        else:
            check_row(row, expected(path.read_bytes()))
    exits = {row["exit"] for row in rows}
    assert len(exits - {None}) > 1


def check_row(row, expected):
    row, expected = dict(row), dict(expected)
    assert row.pop("probability") == pytest.approx(expected.pop("probability"), 1e-5)
    row.pop("key")
    assert row == expected


# === One machine, in this process ===


def test_rows_of_one_operating_point(tmp_path, examples, images):
    model = randomize(make_tiny())
    export.export_saved_model(model, tmp_path / "1", warmup_batch_sizes=())
    scoring = examples("scoring")
    files = scoring.read_model(str(tmp_path / "1"))
    with pytest.raises(scoring.ScoringError, match="r16_encoded.*adaptive"):
        scoring.check_signature(files, "adaptive_default_encoded")
    scoring.check_signature(files, "r16_encoded")
    content = next(images.glob("*#.jpg")).read_bytes()
    scorer = scoring.Scorer(files, "r16_encoded")
    broken, row, missing = scorer.rows("abc", [b"", content, FileNotFoundError("gone")])
    assert (row["operating_point"], row["exit"], row["class_name"]) == (
        "r16",
        None,
        None,
    )
    assert row["madds"] == model.profile()[-1].standalone_madds
    assert missing["error"] == "gone" and broken["key"] == "a"
    table = pyarrow.Table.from_pylist([broken, row, missing], scoring.SCHEMA)
    assert table["error"].null_count == 1


def test_records_on_another_file_system(examples, records):
    blocks = examples("image_blocks")
    sources = blocks.open_sources([f"fsspec+file://{records}"])
    files = blocks.list_files(sources)
    whole, damaged = blocks.make_blocks(files, 2)
    found = list(blocks.read_block(sources[0], whole, "image/encoded"))
    assert [key for key, _ in found] == [
        f"fsspec+file://{records}/a.tfrecord-00000-of-00001#{i}" for i in range(6)
    ]
    assert all(isinstance(image, bytes) for _, image in found)
    *whole, (key, error) = blocks.read_block(sources[0], damaged, "image/encoded")
    assert len(whole) == 2 and key.endswith("b.tfrecord#2")
    assert isinstance(error, tf.errors.DataLossError)
    _, error = next(blocks.read_block(sources[0], damaged, "image"))
    assert "'image'" in str(error) and "image/encoded" in str(error)


def test_compressed_records(tmp_path, examples, records):
    content = (records / "a.tfrecord-00000-of-00001").read_bytes()
    (tmp_path / "a.tfrecord.gz").write_bytes(gzip.compress(content))
    blocks = examples("image_blocks")
    (source,) = blocks.open_sources([str(tmp_path)])
    (block,) = blocks.make_blocks(blocks.list_files([source]), 2)
    found = list(blocks.read_block(source, block, "image/encoded"))
    assert len(found) == 6 and all(isinstance(image, bytes) for _, image in found)


def test_files_are_listed_once_and_without_credentials(tmp_path, examples, images):
    blocks = examples("image_blocks")
    sources = blocks.open_sources([str(images), str(images / "sub"), str(images) + "/"])
    files = blocks.list_files(sources)
    assert len(files) == 17 and [f.key for f in files] == sorted({f.key for f in files})
    sizes = [len(block["paths"]) for block in blocks.make_blocks(files, 5)]
    assert sizes == [5, 5, 5, 2]
    (source,) = blocks.open_sources(["s3://id:secret@bucket/a?region=x&scheme=http"])
    assert source.key("bucket/a/b.jpg") == "s3://bucket/a/b.jpg"

    before = blocks.fingerprint(files)
    copy = shutil.copytree(images, tmp_path / "copy")
    sources = blocks.open_sources([str(copy)])
    assert blocks.fingerprint(blocks.list_files(sources)) != before
    before = blocks.fingerprint(blocks.list_files(sources))
    (copy / "text.bmp").write_bytes(b"test")
    assert blocks.fingerprint(blocks.list_files(sources)) != before


# === Ray ===


@pytest.fixture
def score_ray(monkeypatch, examples):
    """The script `score_ray`, with Ray's files in a folder with a short path."""
    with example_scripts.script("score_ray") as module:
        yield module


def arguments(served, output, *inputs):
    return [
        *(f"--savedmodel={served}", f"--output={output}", "--actors=2"),
        *("--block_size=2", "--batch_size=2", "--inputs", *map(str, inputs)),
    ]


def dying(score_ray, folder, blocks):
    """Returns an actor that is killed once in each of some blocks.

    In odd blocks it is killed before the results are written, and in even blocks
    afterwards.
    """

    class Dying(score_ray.BlockScorer):
        def __call__(self, block):
            number = block["block"]
            marker = folder / str(number)
            if number not in blocks or marker.exists():
                return super().__call__(block)
            marker.touch()
            if number % 2 == 0:
                super().__call__(block)
            os.kill(os.getpid(), signal.SIGKILL)

    return Dying


@needs_ray
@pytest.mark.slow
def test_two_actors_of_which_both_are_lost(
    tmp_path, monkeypatch, capsys, score_ray, served, images, records, expected
):
    """Every image is scored once, equal to a single process."""
    output, killed = tmp_path / "scores", tmp_path / "killed"
    killed.mkdir()
    actor = dying(score_ray, killed, {3, 6})
    monkeypatch.setattr(score_ray, "BlockScorer", actor)
    start_ray = score_ray.start_ray

    def start_and_check(options):
        start_ray(options)
        assert score_ray.ray.util.get_node_ip_address() == "127.0.0.1"

    monkeypatch.setattr(score_ray, "start_ray", start_and_check)
    inputs = [images, f"fsspec+file://{records}"]
    score_ray.main(arguments(served, f"fsspec+file://{output}", *inputs))
    assert len(list(killed.iterdir())) == 2
    printed = capsys.readouterr().out
    assert "0 of 11 blocks are finished" in printed
    assert "11 of 11 blocks, 26 images, 4 errors" in printed
    assert "| exit0" in printed and "| errors" in printed

    rows = read(output)
    assert not list(output.glob(".part*"))
    check_images(
        [row for row in rows if ".tfrecord" not in row["key"]], images, expected
    )
    rows = {row["key"]: row for row in rows if ".tfrecord" in row["key"]}
    names = [f"a.tfrecord-00000-of-00001#{i}" for i in range(6)]
    names += [f"b.tfrecord#{i}" for i in range(3)]
    assert list(rows) == [f"fsspec+file://{records}/{name}" for name in names]
    assert list(rows.values())[-1]["error"]
    for path, row in zip(sorted(images.glob("*#.jpg"))[:6], rows.values()):
        check_row(row, expected(path.read_bytes()))


@needs_ray
@pytest.mark.slow
def test_restart_after_a_block_that_always_fails(
    tmp_path, monkeypatch, capsys, score_ray, served, images, expected
):
    """Finished blocks are not scored again, and the images of all have one row."""
    output = tmp_path / "scores"

    class Failing(score_ray.BlockScorer):
        def __call__(self, block):
            if block["block"] == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(block)

    with monkeypatch.context() as patch:
        patch.setattr(score_ray, "BlockScorer", Failing)
        patch.setattr(score_ray, "_RETRIES", 1)  # each starts an actor again
        with pytest.raises(SystemExit, match="error: a block .* The same command"):
            score_ray.main(arguments(served, output, images))
    finished = {part.name: part.stat().st_mtime_ns for part in output.glob("part-*")}
    assert finished and "part-00000008.parquet" not in finished

    capsys.readouterr()
    score_ray.main(arguments(served, output, images))
    assert f"{len(finished)} of 9 blocks are finished" in capsys.readouterr().out
    for name, time in finished.items():
        assert (output / name).stat().st_mtime_ns == time
    check_images(read(output), images, expected)

    monkeypatch.setattr(score_ray, "start_ray", None)  # is not called again
    score_ray.main(arguments(served, output, images))
    assert "9 of 9 blocks are finished" in capsys.readouterr().out


@needs_ray
def test_actors_need_no_other_module(score_ray, examples, monkeypatch, served, images):
    """Machines of a cluster receive the script and have none of its modules."""
    pickled = score_ray.ray.cloudpickle.dumps(score_ray.BlockScorer)
    for name in ("scoring", "image_blocks", "score_ray", "tables", "quiet_tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    actor = score_ray.ray.cloudpickle.loads(pickled)
    assert actor.__call__.__globals__["scoring"].Scorer.__module__ == "scoring"


@needs_ray
def test_bad_input(tmp_path, score_ray, served, images):
    def error(*flags, inputs=images, model=served, output=tmp_path / "scores"):
        options = [*arguments(model, output, inputs), *flags]
        result = run_script("score_ray", *options)
        assert result.code in (1, 2)
        line = result.error.strip().split("\n")[-1]
        assert "error: " in line and len(line) < 600
        return line

    (tmp_path / "empty").mkdir()
    assert "--inputs must hold images" in error(inputs=tmp_path / "empty")
    assert "--inputs must be existing" in error(inputs=tmp_path / "missing")
    assert "--inputs must be a local path" in error(inputs="nope://bucket")
    assert "--savedmodel must be" in error(model=tmp_path / "empty")
    assert "adaptive_default_encoded" in error("--signature=r48_encoded")
    assert "--signature" in error("--signature=adaptive_encoded")  # takes thresholds
    assert "must be positive" in error("--actors=0")
    assert "must be positive" in error("--cpus_per_actor=nan")
    assert "other files" in error(output=images)
    assert "--output must be a folder" in error(output=images / "text.bmp")

    assert not (tmp_path / "scores").exists()
    output = score_ray.Output(str(tmp_path / "scores"))
    output.open({"signature": "another", "block_size": 2})
    line = error()
    assert "signature (was another" in line and "block_size" not in line
    assert "inputs (was None" in line and "savedmodel" in line


@needs_ray
def test_an_empty_part_is_not_finished(tmp_path, score_ray):
    output = score_ray.Output(str(tmp_path))
    for block in range(2):
        output.write_part(block, [])
    (tmp_path / "part-00000000.parquet").write_bytes(b"")
    assert output.finished() == {1}


# === Beam ===


@needs_beam
@pytest.mark.slow
def test_beam(tmp_path, served, images, expected):
    patterns = [f"{images}/**.jpg", f"{images}/*.png", f"{images}/*.bmp"]
    flags = (f"--savedmodel={served}", f"--output={tmp_path / 'scores'}")
    flags += ("--batch_size=4", "--runner=DirectRunner", "--inputs")
    check_script("score_beam", *flags, *patterns, f"{images}/0*")
    rows = [row for row in read(tmp_path / "scores") if ".hidden" not in row["key"]]
    check_images(rows, images, expected)
    result = run_script("score_beam", *flags, f"{images}/*.gif")
    assert "error: --inputs must match files" in result.error
    result = run_script("score_beam", *flags, *patterns)
    assert "error: --output must hold no results" in result.error
