"""The rules of the architecture: what each part may import, and where special code may be."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kdjax"


def files(part):
    path = PACKAGE / f"{part}.py"
    return [path] if path.is_file() else sorted((PACKAGE / part).rglob("*.py"))


def table():
    """Returns part -> its imports according to kdjax/README.md: packages, and ``kdjax.<part>``."""
    text = (PACKAGE / "README.md").read_text()
    rows = text.partition("| part | imports |\n|---|---|\n")[2].partition("\n\n")[0]
    found = {}
    for row in rows.split("\n"):
        parts, imported = row.strip("|").split("|")
        names = {name.strip() for name in imported.replace(";", ",").split(",")} - {""}
        own = {name.strip("*") for name in names if name.startswith("*")}
        packages = {name for name in names if not name.startswith("*")}
        packages |= {name if name == "kdjax" else f"kdjax.{name}" for name in own}
        found |= dict.fromkeys([part.strip() for part in parts.split(",")], packages)
    return found


def imported(part):
    """Returns the packages that a part imports, and other parts as ``kdjax.<part>``."""
    found = set()
    for path in files(part):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
                parts = {f"kdjax.{alias.name}" for alias in node.names}
                found |= parts if node.module == "kdjax" else {node.module}
    depth = {name: 1 + name.startswith("kdjax.") for name in found}
    roots = {".".join(name.split(".")[: depth[name]]) for name in found}
    return roots - set(sys.stdlib_module_names) - {f"kdjax.{part}"}


@pytest.mark.parametrize("part", table())
def test_parts_import_what_the_table_says(part):
    assert imported(part) == table()[part]


def test_every_part_is_in_the_table():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__main__", "__pycache__"} == set(table())


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
