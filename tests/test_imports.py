"""The imports between the folders of the package, and its public surface."""

import ast
import graphlib
import importlib
import inspect
import pathlib

import pytest

import keras_resadapt

PACKAGE = pathlib.Path(keras_resadapt.__file__).parent

# Packages that are optional or slow to import, or exist on some systems only.
IN_FUNCTIONS = {
    "PIL",
    "ai_edge_litert",
    "fcntl",
    "jax",
    "keras_cv",
    "matplotlib",
    "pycocotools",
    "tensorflow",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
    "tensorflow_serving",
    "tf_keras",
    "torch",
}

PUBLIC = (
    "keras_resadapt",
    *(
        f"keras_resadapt.{path.parent.name}"
        for path in sorted(PACKAGE.glob("*/__init__.py"))
    ),
    "keras_resadapt.losses",
)


def module_of(path: pathlib.Path) -> str:
    """Returns the name by which a file is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def folder_of(module: str) -> str:
    """Returns the folder of a module, or its own name at the top of the package."""
    path = MODULES[module]
    return module if path.parent == PACKAGE else module_of(path.parent / "__init__.py")


def imports_of(node: ast.AST) -> list[str]:
    """Returns the names of the modules that a part of a file imports."""
    found = []
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            found += [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "Imports are absolute."
            for alias in child.names:
                name = f"{child.module}.{alias.name}"
                found.append(name if name in MODULES else child.module)
    return found


TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}
FOLDERS = {}
for _module, _tree in TREES.items():
    FOLDERS.setdefault(folder_of(_module), set()).update(
        folder_of(name) for name in imports_of(_tree) if name in MODULES
    )


def test_no_circle_between_folders():
    graph = {folder: targets - {folder} for folder, targets in FOLDERS.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_only_optional_packages_are_imported_in_functions():
    found = [
        f"{module}:{function.lineno} imports {name}"
        for module, tree in TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for name in imports_of(function)
        if name.split(".")[0] not in IN_FUNCTIONS
    ]
    assert not found


@pytest.mark.parametrize(
    "folder, allowed",
    [
        ("points", set()),
        ("layers", {"number_checks", "points"}),
        ("backbones", {"layers", "points"}),
        ("boxes", {"number_checks"}),
        ("heads", {"boxes", "layers", "points"}),
        (
            "tasks",
            {
                "backend",
                "boxes",
                "checks",
                "heads",
                "layers",
                "losses",
                "number_checks",
                "points",
            },
        ),
    ],
)
def test_lower_folders_know_nothing_of_higher_ones(folder, allowed):
    name = f"keras_resadapt.{folder}"
    others = {target.removeprefix("keras_resadapt.") for target in FOLDERS[name]}
    assert others - {folder} <= allowed


@pytest.mark.parametrize("module", ["rsnet", "mutualnet"])
def test_families_know_no_task(module):
    """Only the factories name a task."""
    tree = TREES[f"keras_resadapt.models.{module}"]
    named = {
        name
        for name, value in vars(keras_resadapt.tasks).items()
        if inspect.isclass(value)
    } - {"Task"}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            assert not names & named, node.name


def test_dir_lists_the_folders_that_are_imported_on_first_use():
    assert {"analysis", "data", "export", "inference"} <= set(dir(keras_resadapt))
    for name in ("heads", "inference", "points", "tasks"):
        assert getattr(keras_resadapt, name) is importlib.import_module(
            f"keras_resadapt.{name}"
        )
    with pytest.raises(AttributeError, match="no attribute 'inferense'"):
        keras_resadapt.inferense  # noqa: B018


def public_callables():
    """Yields the public functions and constructors, with their names."""
    for module in PUBLIC:
        for name, value in vars(importlib.import_module(module)).items():
            origin = getattr(value, "__module__", None) or ""
            if name.startswith("_") or not origin.startswith("keras_resadapt"):
                continue
            if inspect.isclass(value):
                if "__init__" in vars(value):
                    yield f"{module}.{name}", value.__init__
            elif inspect.isfunction(value):
                yield f"{module}.{name}", value


def test_public_functions_and_constructors_have_type_hints():
    missing = []
    for name, function in public_callables():
        signature = inspect.signature(function)
        missing += [
            f"{name}: {parameter.name}"
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty
            and parameter.name != "self"
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        if function.__name__ != "__init__" and (
            signature.return_annotation is signature.empty
        ):
            missing.append(f"{name}: return")
    assert not missing
