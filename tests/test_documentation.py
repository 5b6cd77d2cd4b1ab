"""The examples and the links of the documentation."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, make_tiny_cascade

import keras_resadapt
from keras_resadapt import export, layers, quantization
from keras_resadapt.data import demo

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in (ROOT, ROOT / "examples", ROOT / "examples" / "measurements")
    for path in path.glob("*.md")
)


def page_id(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def code_blocks(path: pathlib.Path) -> list[str]:
    """Returns the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)


# === Pages ===


# What the test below shortens in the blocks of README.md
SHORTER = {
    "steps_per_epoch=20": "steps_per_epoch=2",
    "steps_per_epoch=5": "steps_per_epoch=1",
    "RANet(8, ": "RANet(8, num_blocks=1, ",
    "max_madds=15e6": "max_madds=10e6",  # the exits then cost 6.6M to 12.4M
    "depths=(1, 1), filters=(16, 32)": "depths=(1,), filters=(16,)",
    "resolutions=(64, 32), ": "resolutions=(64, 32), depths=(1, 1, 1, 1), ",
}


@pytest.mark.slow
def test_readme_runs(tmp_path, monkeypatch):
    """The blocks of README.md run in their order, in one process.

    They draw fewer images, train for fewer steps, and the networks are shallower.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "SPLIT_SIZES", {"train": 640, "validation": 128})
    blocks = code_blocks(ROOT / "README.md")
    for long, short in SHORTER.items():
        assert long in "".join(blocks)
        blocks = [block.replace(long, short) for block in blocks]
    namespace = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, block {number}", "exec"), namespace)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_names_in_code_blocks_exist(path):
    """Blocks that need trained networks are not run, but name what exists."""
    modules = {
        name: getattr(keras_resadapt, name)
        for name in dir(keras_resadapt)
        if inspect.ismodule(getattr(keras_resadapt, name))
    }
    modules["keras_resadapt"] = keras_resadapt
    for block in code_blocks(path):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = modules.get(node.value.id)
                assert module is None or hasattr(module, node.attr), ast.unparse(node)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_to_files_and_titles(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, title = target.partition("#")
        page = path.parent / name if name else path
        assert page.exists(), target
        if title:
            titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
            assert title in {
                re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles
            }, target


def test_every_picture_is_shown():
    pages = "\n".join(path.read_text() for path in PAGES)
    for picture in (ROOT / "examples" / "pictures").iterdir():
        assert f"pictures/{picture.name})" in pages, picture.name


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 165


def test_no_paths_of_one_machine():
    files = [*PAGES, *(ROOT / "keras_resadapt").rglob("*.py")]
    files += [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples").glob("*.sh")]
    for path in files:
        found = re.search(r"(?<![\w.])/(work|home|root|tmp|Users)/", path.read_text())
        assert found is None, f"{path}: {found}"


# === Docstrings ===


def docstrings_with_examples():
    """Returns the examples of each function or class that has some, by name."""
    found = {}
    for info in pkgutil.walk_packages(keras_resadapt.__path__, "keras_resadapt."):
        module = importlib.import_module(info.name)
        for test in doctest.DocTestFinder().find(module, module=module):
            if test.examples:
                name = test.name.removeprefix(f"{info.name}.")
                found[name] = (vars(module), test.examples)
    return found


def images(size, number=4):
    return np.random.default_rng(0).uniform(0, 255, (number, size, size, 3))


def batches(size):
    return tf.data.Dataset.from_tensors((images(size), np.arange(4)))


def quantize_names():
    return {
        "model": make_tiny(resolutions=(16,)),
        "batches": batches(16),
        **vars(quantization),
    }


def calibrate_batch_norm_names():
    model = keras_resadapt.MutualMobileNetV1(
        5, (0.5, 1.0), (224, 160), depths=(1,), filters=(8,)
    )
    return {"model": model, "batches": batches(224), "images": images(160)}


def litert_network_names():
    export.export_litert(make_tiny(resolutions=(160,)), "rsnet.tflite")
    return {"images": images(160, 1).astype("float32")}


def cascade_names():
    names = {"indices_of_images_that_go_on": np.array([0])}
    return {"model": make_tiny_cascade(), "images": images(32), **names}


# The variables that the examples of each docstring start from
NAMES = {
    "AdaptivePredictor": lambda: {"model": make_tiny_cascade(), "images": images(32)},
    "Cascade": cascade_names,
    "LiteRTNetwork": litert_network_names,
    "SwitchableBatchNormalization": lambda: {"features": images(8), **vars(layers)},
    "atomic_path": lambda: {"model": make_tiny(resolutions=(16,))},
    "calibrate_batch_norm": calibrate_batch_norm_names,
    "quantize": quantize_names,
}


def test_every_docstring_with_examples_is_run():
    assert sorted(docstrings_with_examples()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, examples = docstrings_with_examples()[name]
    namespace = {**module, "keras": keras, **NAMES[name]()}
    for example in examples:
        exec(compile(example.source, f"docstring of {name}", "exec"), namespace)
