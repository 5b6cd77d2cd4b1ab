"""The order in which the folders of `inference` import one another."""

import ast
import pathlib

import keras_resadapt

PACKAGE = pathlib.Path(keras_resadapt.__file__).parent
ORDER = ("storing", "running", "calibrating", "measuring")


def imports_of(path) -> list[tuple[str, bool]]:
    """Returns the modules that a file imports, and whether in a function."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found.append((node.module, id(node) in inside))
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) in inside) for alias in node.names]
    return found


def test_folders_import_only_earlier_ones():
    for number, folder in enumerate(ORDER):
        for path in (PACKAGE / "inference" / folder).glob("*.py"):
            for module, _ in imports_of(path):
                for later in ORDER[number + 1 :]:
                    assert f"keras_resadapt.inference.{later}" not in module, path
                assert not module.startswith(
                    ("keras_resadapt.export", "keras_resadapt.analysis")
                ), path


def test_only_optional_packages_are_imported_in_functions():
    for folder in ("inference", "export"):
        for path in (PACKAGE / folder).rglob("*.py"):
            for module, in_function in imports_of(path):
                assert not (in_function and module.startswith("keras_resadapt")), path
