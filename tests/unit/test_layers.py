"""Dependencies point down only, and each heavy library has its place."""

import ast
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "mimicry"

# Where a library may be imported, by prefix of the module. What is not listed may be imported anywhere.
ALLOWED = {
    "hydra": ("mimicry.app",),
    "omegaconf": ("mimicry.app",),
    "lightning": ("mimicry.training", "mimicry.data", "mimicry.regimes", "mimicry.execution"),
    "transformers": ("mimicry.conversion", "mimicry.data", "mimicry.training.optimization", "mimicry.quieting"),
    "wandb": ("mimicry.reporting",),
}
# Other names of the same library.
ALIASES = {"pytorch_lightning": "lightning", "lightning_fabric": "lightning"}


def imports(source: str) -> set[str]:
    """Top-level packages that a source file imports anywhere: in functions and under conditions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
    return {ALIASES.get(name, name) for name in found}


def importers() -> dict[str, set[str]]:
    """Library -> modules of the package that import it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for library in imports(path.read_text(encoding="utf-8")):
            found[library].add(module)
    return found


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b, c as d\nfrom e.f import g\nfrom . import h\ndef f():\n    if x:\n        import i"
    assert imports(source) == {"a", "c", "e", "i"}


@pytest.mark.parametrize("library", ALLOWED)
def test_a_library_is_imported_only_in_its_place(library: str) -> None:
    modules = importers()[library]
    assert modules, "nothing imports it: drop the rule and the dependency"
    places = ALLOWED[library]
    assert {m for m in modules if not any(m == place or m.startswith(f"{place}.") for place in places)} == set()


def test_no_module_imports_relatively() -> None:
    relative = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    }
    assert relative == set()


def test_the_contracts_in_pyproject_hold() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout
