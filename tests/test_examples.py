"""The example scripts one after the other, as a user runs them."""

import json
import os
import subprocess
import sys

import keras
import numpy as np

import keras_resadapt  # noqa: F401, to load its networks

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def python(script, *arguments):
    """What an example prints; it must succeed."""
    code, output = run_example(script, *arguments)
    assert code == 0, output[-3000:]
    return output


def run_example(script, *arguments):
    """The exit code of an example, and what it prints."""
    result = subprocess.run(
        [sys.executable, os.path.join(ROOT, "examples", script), *arguments],
        env={**os.environ, "PYTHONPATH": ROOT},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return result.returncode, result.stdout


def test_cascade_from_training_to_serving(tmp_path):
    """Trains, calibrates; exports and asks; draws what it learned."""

    run = tmp_path / "run"
    output = python(
        "train_msnet.py",
        f"--output_dir={run}",
        "--resolutions=32,16",
        "--depths=1",
        "--filters=4",
        "--batch_size=500",
        "--epochs=1",
    )
    assert "adaptive, calibrated for" in output
    table = json.loads((run / "table.json").read_text())
    assert [row["exit"] for row in table["anytime"]] == ["exit0", "exit1"]
    assert len(table["budgeted"]) == 40
    assert (run / "accuracy_cost.png").stat().st_size > 5000
    assert (run / "exits.png").stat().st_size > 5000
    # A tenth of the 4,000 training pictures
    assert len(np.load(run / "held_out_logits.npz")["labels"]) == 400

    served = tmp_path / "served" / "1"
    output = python(
        "export_savedmodel.py",
        f"--model={run / 'model.keras'}",
        f"--output={served}",
        f"--thresholds={run / 'thresholds.json'}",
        f"--class_names={run / 'class_names.txt'}",
    )
    assert "adaptive_default_encoded" in output
    output = python("ask_savedmodel.py", str(served), *(run / "samples").iterdir())
    assert output.count(" at exit ") == 4

    pictures = tmp_path / "pictures"
    python(
        "analyze.py",
        f"--model={run / 'model.keras'}",
        f"--thresholds={run / 'thresholds.json'}",
        f"--output_dir={pictures}",
    )
    assert {path.name for path in pictures.iterdir()} == {
        "agreement.png",
        "complementarity.png",
        "spectrum.png",
        "difficulty.png",
    }


def test_mutualnet_from_training_to_its_table(tmp_path):
    """Trains, calibrates, measures; fine-tunes; draws both."""

    first, second = tmp_path / "first", tmp_path / "second"
    common = (
        "--batch_size=500",
        "--epochs=1",
        "--width_step=0.75",
        "--calibration_images=500",
    )
    python(
        "train_mutualnet.py",
        f"--output_dir={first}",
        "--resolutions=32,16",
        "--depths=1,1",
        "--filters=8,16",
        "--train_resolutions=32",
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
    python(
        "train_mutualnet.py",
        f"--output_dir={second}",
        f"--init_from={first / 'model.keras'}",
        *common,
    )
    model = keras.models.load_model(second / "model.keras")
    assert model.train_resolutions == (32,)
    assert len(model.operating_points) == 4
    output = python(
        "compare_tables.py",
        f"--output={tmp_path / 'compare.png'}",
        f"--tables={first}/query_table.json,{second}/query_table.json",
    )
    assert "first" in output
    code, output = run_example(
        "train_mutualnet.py",
        f"--output_dir={tmp_path / 'no'}",
        "--width_step=0.001",
    )
    assert code != 0 and "width_step" in output
