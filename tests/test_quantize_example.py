"""The example that quantizes a trained network, as a user runs it."""

import json
import os

import pytest
from example_scripts import check_script, write_image_folder

import keras_resadapt


def run(folder, resolutions, *arguments):
    """The folder's table; the script must succeed."""
    model = os.path.join(folder, "float.keras")
    keras_resadapt.RSNet18(
        3, resolutions, depths=(1,), filters=(16,), stem="small"
    ).save(model)
    output = os.path.join(folder, "out")
    check_script(
        "quantize",
        f"--model={model}",
        f"--output_dir={output}",
        f"--dataset={write_image_folder(folder / 'images')}",
        "--epochs=1",
        "--batch_size=12",
        "--calibration_images=24",
        "--timed_passes=1",
        *arguments,
    )
    with open(os.path.join(output, "table.json")) as file:
        table = json.load(file)
    assert list(table["accuracy"]) == ["float", "calibrated", "trained"]
    assert os.path.exists(os.path.join(output, "served", "1", "saved_model.pb"))
    return table, set(os.listdir(output))


@pytest.mark.slow
def test_integers(tmp_path):
    table, files = run(tmp_path, (32, 16), "--scheme=int8")
    kinds = ["float", "float_shared", "int8", "int8_after_training"]
    assert list(table["litert_accuracy"]) == kinds
    assert {f"{kind}.tflite" for kind in kinds} <= files
    assert table["bytes"]["int8"] < table["bytes"]["float"]
    assert "accuracy_ms.png" in files
    assert table["ms"]["int8, 2 threads"]["r16"] > 0
    share, largest = table["litert_agreement"]["r32"]
    assert share > 0.9 and largest < 0.1


@pytest.mark.slow
def test_learned_levels(tmp_path):
    table, files = run(tmp_path, (16,), "--scheme=2/32")
    assert set(table["bytes"]) == {"packed.weights.h5", "float.weights.h5"}
    assert {"packed.keras", "accuracy_cost.png"} <= files
