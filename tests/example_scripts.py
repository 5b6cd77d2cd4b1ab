"""Runs the example scripts in the process of the tests."""

import contextlib
import dataclasses
import importlib
import io
import os
import sys

import numpy as np
import tensorflow as tf
from absl.testing import flagsaver

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
EXAMPLES = os.path.join(ROOT, "examples")
sys.path.insert(0, EXAMPLES)
import command_line  # noqa: E402

# Imported modules, so that no other module gets the id of one of them: absl
# remembers the ids of modules
_MODULES = []


@dataclasses.dataclass
class Result:
    """The exit code of a script, and what it printed."""

    code: int
    output: str
    error: str


def run_script(name: str, *arguments) -> Result:
    """Runs a script as its command line would, in this process."""
    output, error = io.StringIO(), io.StringIO()
    code = 0
    with (
        script(name) as module,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(error),
    ):
        try:
            if hasattr(module, "command_line"):
                command_line.run(module.main, [f"{name}.py", *map(str, arguments)])
            else:
                module.main([*map(str, arguments)])
        except SystemExit as exit:
            code = exit.code
            if isinstance(code, str):
                print(code, file=error)
                code = 1
    return Result(code or 0, output.getvalue(), error.getvalue())


def check_script(name: str, *arguments) -> str:
    """Runs a script that must succeed, and returns what it printed."""
    result = run_script(name, *arguments)
    assert result.code == 0, result.output[-2000:] + result.error[-2000:]
    return result.output


@contextlib.contextmanager
def script(name: str):
    """Imports a script, and removes it and its flags again.

    Flags of the same name are defined by several scripts.
    """
    before = set(sys.modules)
    with flagsaver.flagsaver():
        try:
            yield importlib.import_module(name)
        finally:
            for other in set(sys.modules) - before:
                path = getattr(sys.modules[other], "__file__", None) or ""
                if os.path.dirname(os.path.realpath(path)) == EXAMPLES:
                    _MODULES.append(sys.modules.pop(other))


def write_image_folder(folder, classes=3, train=12, validation=6, size=32):
    """Writes a data set of random images, each class of one brightness."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", validation)):
        for label in range(classes):
            path = folder / split / f"class{label}"
            path.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 80, (size, size, 3)) + 80 * label
                encoded = tf.io.encode_png(image.astype("uint8"))
                (path / f"{i}.png").write_bytes(encoded.numpy())
    return folder
