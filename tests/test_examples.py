"""The example scripts, from training to serving, and their errors."""

import contextlib
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, make_tiny_cascade, randomize
from example_scripts import (
    EXAMPLES,
    check_script,
    run_script,
    write_image_folder,
)

import keras_resadapt
from keras_resadapt import inference, training

TINY = ("--batch_size=12", "--epochs=1", "--depths=1", "--filters=8")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A data set of 36 training and 18 validation images in three classes."""
    return write_image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def mutualnet(tmp_path_factory):
    """The file of a MutualNet with four operating points."""
    model = keras_resadapt.MutualMobileNetV1(
        3, resolutions=(32, 16), depths=(1, 1), filters=(8, 16), stem="small"
    )
    batch = np.zeros((4, 32, 32, 3), "float32"), np.zeros(4, int)
    inference.calibrate_batch_norm(
        model, [batch], model.grid([1.0, 0.25]), verbose=False
    )
    path = tmp_path_factory.mktemp("mutualnet") / "model.keras"
    model.save(path)
    return path


def one_line(result, *parts):
    """Checks that a script failed with one line, which has the given parts."""
    assert result.code in (1, 2), result.error
    line = result.error.rstrip("\n")
    assert line.startswith("error: ") and "\n" not in line, line
    assert len(line) < 1000
    for part in parts:
        assert part in line


# === From training to serving ===


@pytest.mark.slow
def test_cascade_from_training_to_serving(tmp_path, images):
    """Trains and calibrates; exports and runs; plots."""
    run = tmp_path / "run"
    output = check_script(
        "train_msnet",
        f"--output_dir={run}",
        f"--dataset={images}",
        "--resolutions=32,16",
        *TINY,
    )
    assert "calibrated for" in output and "| exit1" in output
    table = json.loads((run / "table.json").read_text())
    assert [row["exit"] for row in table["anytime"]] == ["exit0", "exit1"]
    assert len(table["budgeted"]) == 40
    assert (run / "accuracy_cost.png").stat().st_size > 5000
    assert (run / "exits.png").stat().st_size > 5000
    # A tenth of the 36 training images
    assert len(np.load(run / "held_out_logits.npz")["labels"]) == 3

    served = tmp_path / "served" / "1"
    output = check_script(
        "export_savedmodel",
        f"--model={run / 'model.keras'}",
        f"--output={served}",
        f"--thresholds={run / 'thresholds.json'}",
        f"--class_names={run / 'class_names.txt'}",
    )
    assert "adaptive_default_encoded" in output
    output = check_script("run_savedmodel", served, *(run / "samples").iterdir())
    assert output.count(" at exit ") == 4

    plots = tmp_path / "plots"
    check_script(
        "analyze",
        f"--model={run / 'model.keras'}",
        f"--dataset={images}",
        f"--output_dir={plots}",
    )
    names = {"agreement.png", "complementarity.png", "spectrum.png"}
    assert {path.name for path in plots.iterdir()} == names

    output = check_script(
        "compare_cascades", f"--runs={run}", f"--output={tmp_path / 'compare.png'}"
    )
    assert "| budget (M)" in output and "| run" in output


@pytest.mark.slow
def test_mutualnet_from_training_to_its_table(tmp_path, images):
    """Trains, calibrates and measures; fine-tunes; compares both."""
    first, second = tmp_path / "first", tmp_path / "second"
    common = (
        f"--dataset={images}",
        "--batch_size=12",
        "--epochs=1",
        "--width_step=0.75",
        "--calibration_images=12",
    )
    check_script(
        "train_mutualnet",
        f"--output_dir={first}",
        "--resolutions=32,16",
        "--depths=1",
        "--filters=8",
        "--train_resolutions=32",
        "--num_random_widths=1",
        *common,
    )
    table = json.loads((first / "query_table.json").read_text())
    assert [row["name"] for row in table["rows"]] == [
        "r32_w100",
        "r32_w025",
        "r16_w100",
        "r16_w025",
    ]
    assert (first / "accuracy_ms.png").stat().st_size > 5000
    check_script(
        "train_mutualnet",
        f"--output_dir={second}",
        f"--init_from={first / 'model.keras'}",
        *common,
    )
    model = keras.models.load_model(second / "model.keras")
    assert model.train_resolutions == (32,)
    assert len(model.operating_points) == 4
    output = check_script(
        "compare_tables",
        f"--output={tmp_path / 'compare.png'}",
        f"--tables={first}/query_table.json,{second}/query_table.json",
    )
    assert "first" in output


@pytest.mark.slow
def test_detection_from_an_interrupted_training_to_its_table(tmp_path, monkeypatch):
    """Interrupted after the first of two steps; resumed, calibrated and measured."""
    run = tmp_path / "run"
    arguments = (
        f"--output_dir={run}",
        f"--dataset={write_coco_folder(tmp_path / 'coco')}",
        *("--resolutions=32", "--max_size=32", "--width_range=1,1", "--widths=1"),
        *("--filters=4,4,4,4", "--channels=4", "--units=8", "--num_random_widths=0"),
        *("--batch_size=2", "--epochs=1", "--checkpoint_every=1", "--examples=1"),
    )
    save = training.Checkpoint.on_train_batch_begin

    def save_and_interrupt(self, batch, logs=None):
        save(self, batch, logs)
        if batch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training.Checkpoint, "on_train_batch_begin", save_and_interrupt)
        with functions_run_eagerly():  # one step takes less time than its graph
            result = run_script("train_detection", *arguments)
    assert result.code == 1
    assert "--resume continues after step 1 of epoch 1." in result.error
    # As of a run whose training goes on after it was measured
    inference.QueryTable((), "of another model").save(run / "query_table.json")

    output = check_script("train_detection", *arguments, "--resume")
    assert "Resuming after step 1 of epoch 1." in output
    assert "| name" in output and "mask_ap50" in output
    assert len((run / "log.csv").read_text().splitlines()) == 2
    # The recipe's, without which small networks diverge
    table = json.loads((run / "query_table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["r32_w100"]
    assert (run / "examples.png").stat().st_size > 5000
    model = keras.models.load_model(run / "model.keras")
    assert [point.name for point in model.operating_points] == ["r32_w100"]


@contextlib.contextmanager
def functions_run_eagerly():
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def write_coco_folder(folder):
    """Writes images with one rectangle each, in the layout of COCO."""
    (folder / "annotations").mkdir(parents=True)
    x1, y1, x2, y2 = 4, 6, 20, 26
    image = np.zeros((32, 32, 3), "uint8")
    image[y1:y2, x1:x2] = 255
    encoded = tf.io.encode_png(image).numpy()
    for split, count in (("train", 4), ("val", 2)):
        (folder / split).mkdir()
        images = [
            {"id": i, "file_name": f"{i}.png", "height": 32, "width": 32}
            for i in range(count)
        ]
        for entry in images:
            (folder / split / entry["file_name"]).write_bytes(encoded)
        rectangle = {
            "category_id": 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        content = {
            "images": images,
            "annotations": [
                {"id": i, "image_id": i, **rectangle} for i in range(count)
            ],
            "categories": [{"id": 1, "name": "rectangle"}],
        }
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_analyze_every_family(tmp_path, images, mutualnet):
    """A MutualNet has `resolutions`, a cascade `resolution`."""
    (tmp_path / "rsnet").mkdir()
    (tmp_path / "cascade").mkdir()
    randomize(make_tiny(3, (32, 16))).save(tmp_path / "rsnet" / "m.keras")
    make_tiny_cascade(3).save(tmp_path / "cascade" / "m.keras")
    expected = {
        mutualnet: {"agreement", "complementarity"},
        tmp_path / "cascade" / "m.keras": {"agreement", "complementarity"},
        tmp_path / "rsnet" / "m.keras": {
            *("agreement", "complementarity", "spectrum"),
            *("bn_statistics", "resolutions"),
        },
    }
    for path, names in expected.items():
        folder = tmp_path / "plots" / path.parent.name
        check_script(
            "analyze",
            f"--model={path}",
            f"--dataset={images}",
            f"--output_dir={folder}",
        )
        assert {path.stem for path in folder.iterdir()} == names


# === The command line ===


@pytest.mark.parametrize(
    "name",
    sorted(
        path.stem
        for path in pathlib.Path(EXAMPLES).glob("*.py")
        if "command_line.run(" in path.read_text()
    ),
)
def test_help_shows_all_flags(name):
    result = run_script(name, "--help")
    assert result.code == 0 and not result.error
    assert "pictures" not in result.output
    if name.startswith("train") or name == "quantize":
        for flag in ("dataset", "epochs", "[no]resume", "output_dir", "model"):
            assert f"  --{flag}\n" in result.output


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--flip", "false"], ["'false'", "--flip=false"]),
        (["--learning_rate=-1"], ["learning_rate", "-1"]),
        (["--learning_rate=nan"], ["learning_rate", "nan"]),
        (["--batch_size=0"], ["batch_size", "0"]),
        (["--batch_size=37"], ["--batch_size", "36"]),
        (["--epochs=0"], ["epochs", "0"]),
        (["--min_area=2"], ["min_area", "2"]),
        (["--resolutions=32,x"], ["resolutions", "x"]),
        (["--resolutions=0"], ["resolutions", "at least 1"]),
        (["--model=mobilenetv2", "--depths=1"], ["--depths", "mobilenetv2"]),
        (["--init_from=missing.pth"], ["--init_from", "missing.pth"]),
        (["--dataset=./missing"], ["dataset", "missing"]),
        (["--nonsense"], ["nonsense"]),
    ],
)
def test_errors_are_one_line_and_leave_no_folder(tmp_path, images, arguments, parts):
    folder = tmp_path / "run"
    result = run_script(
        "train_rsnet",
        f"--output_dir={folder}",
        f"--dataset={images}",
        "--batch_size=12",
        *arguments,
    )
    one_line(result, *parts)
    assert not folder.exists()


def test_an_unknown_data_set_is_one_line(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    result = run_script(
        "train_rsnet",
        f"--output_dir={tmp_path / 'run'}",
        f"--data_dir={tmp_path}",
        "--dataset=no_such_set",
    )
    one_line(result, "no_such_set")


def test_a_strategy_of_another_backend(images, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    arguments = f"--dataset={images}", f"--output_dir={tmp_path}", "--strategy=tpu"
    result = run_script("train_rsnet", *arguments)
    one_line(result, "needs the TensorFlow backend")


def test_faults_of_the_program_keep_their_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "lock_folder", None)  # 'NoneType' is not callable
    with pytest.raises(TypeError, match="not callable"):
        run_script("train_rsnet", f"--output_dir={tmp_path / 'run'}")


def test_networks_of_another_family(tmp_path, images, mutualnet):
    path = tmp_path / "tiny.keras"
    make_tiny(3, (16,)).save(path)
    common = (f"--output_dir={tmp_path / 'run'}", f"--dataset={images}")
    common += ("--batch_size=12",)
    one_line(
        run_script("train_mutualnet", f"--init_from={path}", *common),
        *("--init_from", "MutualNet", "RSNet"),
    )
    one_line(
        run_script("train_mutualnet", f"--init_from={images}", *common),
        *("--init_from", ".keras"),
    )
    one_line(
        run_script(
            "train_mutualnet", f"--init_from={mutualnet}", "--model=vgg16", *common
        ),
        *("--init_from", "--model"),
    )
    one_line(run_script("train_mutualnet", "--width_step=0.001", *common), "width_step")
    one_line(run_script("analyze", "--model=missing.keras"), "--model", "missing.keras")
    assert not (tmp_path / "run").exists()


# === Resuming ===


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    """The folder of a finished run of an RS-Net."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    check_script("train_rsnet", *rsnet_arguments(folder, images))
    return folder


def rsnet_arguments(folder, images, *arguments):
    return (
        f"--output_dir={folder}",
        f"--dataset={images}",
        "--resolutions=32,16",
        *TINY,
        *arguments,
    )


def test_a_finished_run(finished, images):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("accuracy_cost.png", "checkpoint", "class_names.txt", "flags.json"),
        *("log.csv", "model.keras", "samples", "table.json"),
    }
    table = json.loads((finished / "table.json").read_text())
    assert [row["resolution"] for row in table] == [32, 16]
    one_line(
        run_script("train_rsnet", *rsnet_arguments(finished, images)),
        *("exists", "--resume"),
    )


def test_resume_refuses_changed_flags(finished, images):
    result = run_script(
        "train_rsnet",
        *rsnet_arguments(finished, images, "--resume"),
        "--resolutions=32,24,16",
        "--distillation=none",
        "--noflip",
        "--tensorboard",
    )
    one_line(
        result,
        *("--resolutions=32,16", "--resolutions=32,24,16"),
        *("--distillation=full", "--distillation=none"),
        *("--flip=True", "--flip=False"),
    )
    assert "tensorboard" not in result.error
    assert (finished / "model.keras").exists()


def test_resume_refuses_a_folder_in_use(finished, images):
    with training.lock_folder(finished):
        result = run_script(
            "train_rsnet", *rsnet_arguments(finished, images, "--resume")
        )
    one_line(result, str(finished), "process ")


def test_an_interrupted_run_names_its_checkpoint(finished, images, monkeypatch):
    def interrupt(self, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "on_train_begin", interrupt)
    result = run_script(
        "train_rsnet", *rsnet_arguments(finished, images, "--resume", "--epochs=2")
    )
    assert result.code == 1
    assert "The same command with --resume continues after epoch 1." in result.error


@pytest.mark.slow
def test_resume_with_more_epochs(finished, images):
    """The schedule becomes that of the longer run. Fewer epochs are refused."""
    result = check_script(
        "train_rsnet", *rsnet_arguments(finished, images, "--resume", "--epochs=3")
    )
    assert "Resuming after epoch 1." in result
    checkpoints = sorted(path.name for path in (finished / "checkpoint").iterdir())
    assert checkpoints == ["epoch_0002.keras", "epoch_0003.keras"]
    model = keras.models.load_model(finished / "checkpoint" / "epoch_0002.keras")
    rate = float(model.optimizer.learning_rate)
    expected = training.Recipe(3, 0.1, 0).schedule(3, 12)(6)
    np.testing.assert_allclose(rate, float(expected), rtol=1e-5)
    assert len((finished / "log.csv").read_text().splitlines()) == 4
    one_line(
        run_script("train_rsnet", *rsnet_arguments(finished, images, "--resume")),
        *("--epochs=3", "--epochs=1"),
    )
