"""The source as syntax trees, read once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trees(root: Path) -> dict[str, ast.Module]:
    """Every file of src/zhixing by its path inside the package."""
    package = root / "src" / "zhixing"
    files = sorted(package.rglob("*.py"))
    assert len(files) > 20
    return {path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in files}
