"""The structure of the code: imports and sizes."""

import ast

import pytest
import tiny

PACKAGE = tiny.ROOT / "sentiment"
SCRIPTS = [tiny.ROOT / f"{name}.py" for name in ("train", "evaluate", "predict")]
CORE = sorted(PACKAGE.glob("*.py"))
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
MODULES = sorted(PACKAGE.rglob("*.py"))
# The only modules of the core that import a room, and what they import.
EXCEPTIONS = {"inference": {"fast.packing"}, "data": {"hub.checks", "hub.soft", "hub.source"}}


def imports(path):
    """Names below `sentiment` that a module imports, such as "model" and "hub.access"."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = (name.removeprefix("sentiment.") for name in names if name.startswith("sentiment."))
    found = set()
    for name in inside:  # "hub.access.connect" is a function of the module "hub.access"
        parts = name.split(".")
        found.add(".".join(parts[: 2 if parts[0] in ROOMS else 1]))
    return found


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def size(paths):
    return sum(path.stat().st_size for path in paths)


def test_there_are_four_rooms():
    assert ROOMS == ["fast", "hub", "report", "runtime"]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_the_core_imports_rooms_in_the_named_places_only(path):
    rooms = {name for name in imports(path) if name.split(".")[0] in ROOMS}
    assert rooms == EXCEPTIONS.get(path.stem, set())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_the_core_and_no_other_room(room):
    for path in (PACKAGE / room).glob("*.py"):
        others = {name.split(".")[0] for name in imports(path)} & set(ROOMS) - {room}
        assert not others, path


def test_nothing_in_the_package_imports_a_script():
    names = {path.stem for path in SCRIPTS}
    for path in [*MODULES, *SCRIPTS]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & names, path
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in names, path


# In bytes. Smaller by simpler code, never by longer lines: ruff holds those to 100 columns.
@pytest.mark.parametrize(
    ("limit", "paths"),
    [
        (16_000, SCRIPTS[:1]),
        (64_000, CORE),
        (160_000, [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".j2")]),
    ],
    ids=["train.py", "core", "sentiment"],
)
def test_sizes_stay_within_their_limits(limit, paths):
    assert size(paths) <= limit


@pytest.mark.parametrize("path", [*SCRIPTS, *MODULES], ids=lambda path: path.stem)
def test_functions_fit_on_a_screen(path):
    for function in functions(path):
        given = function.args
        parameters = given.posonlyargs + given.args + given.kwonlyargs
        assert len(parameters) <= 8, function.name
        lines = function.end_lineno - function.lineno + 1
        assert lines <= 50 or function.name == "parse_args", (function.name, lines)


def test_lines_have_at_most_100_columns():
    for path in [*SCRIPTS, *MODULES]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 100, f"{path}:{number}"
