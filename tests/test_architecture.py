"""The house keeps its order: who may import whom, and where the special things live."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kdjax"

# What each part must not import: packages, and parts of kdjax itself.
FORBIDDEN = {
    "losses": {"flax", "ml_collections", "absl", "kdjax.*"},
    "widths.py": {"jax", "flax", "kdjax.*"},
    "costs.py": {"jax", "flax", "kdjax.*"},
    "process.py": {"jax", "flax", "numpy", "kdjax.*"},
    "statistics.py": {"jax", "flax", "kdjax.*"},
    "models": {"kdjax.losses", "kdjax.train", "kdjax.config", "kdjax.data", "ml_collections"},
    "tracing": {
        *("kdjax.models", "kdjax.losses", "kdjax.search", "kdjax.train", "kdjax.config"),
        *("kdjax.data", "ml_collections"),
    },
    "data": {"kdjax.models", "kdjax.train", "kdjax.config", "kdjax.losses", "flax"},
    "search": {"kdjax.train", "kdjax.data", "kdjax.config", "kdjax.report", "ml_collections"},
    "train": {"absl", "kdjax.cli", "kdjax.report", "kdjax.bench", "kdjax.plan"},
    "bench": {"absl", "kdjax.cli", "kdjax.report", "kdjax.plan"},
    "plan": {"absl", "kdjax.cli", "kdjax.report", "kdjax.bench", "kdjax.deploy"},
    "deploy": {"absl", "kdjax.cli", "kdjax.report", "kdjax.bench", "kdjax.plan"},
    "config": {"jax", "flax", "kdjax.*"},
    "report": {
        "jax",
        "flax",
        "kdjax.train",
        "kdjax.models",
        "kdjax.data",
        "kdjax.bench",
        "kdjax.plan",
    },
}


def imports(path):
    """Names that a file imports, relative to the whole project, with the line they stand on."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def files(part):
    path = PACKAGE / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_one_way(part):
    assert files(part)
    for path in files(part):
        own = "kdjax." + part.removesuffix(".py")
        for name, line in imports(path):
            for forbidden in FORBIDDEN[part]:
                if forbidden == "kdjax.*":
                    wrong = name.startswith("kdjax.") and not name.startswith(own)
                else:
                    wrong = name == forbidden or name.startswith(f"{forbidden}.")
                assert not wrong, f"{path}:{line} imports {name}"


def test_every_part_is_covered_by_the_table():
    parts = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    free = {"__init__.py", "__main__.py", "cli", "__pycache__"}
    assert parts - free == set(FORBIDDEN)


def test_devices_are_mapped_in_one_file():
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("pmap", "shard_map")
    }
    assert users == {"train/devices/parallel.py"}


def test_heavy_libraries_are_imported_where_they_are_used():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in getattr(node, "names", [])]
            module = getattr(node, "module", None) or ""
            assert not any(
                name.split(".")[0]
                in ("tensorflow_datasets", "grain", "sklearn", "scipy", "matplotlib")
                for name in [*names, module]
            ), f"{path}: import it in the function that needs it"


def test_public_functions_of_three_parameters_say_what_they_are():
    def public(body):
        for node in body:
            if getattr(node, "name", "_").startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)
            elif isinstance(node, ast.FunctionDef):
                yield node

    for path in PACKAGE.rglob("*.py"):
        for node in public(ast.parse(path.read_text()).body):
            given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            if len([one for one in given if one.arg not in ("self", "cls")]) >= 3:
                text = ast.get_docstring(node) or ""
                assert "Args:" in text, f"{path}:{node.lineno}: {node.name} has no Args:"


def test_no_file_is_too_long():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
