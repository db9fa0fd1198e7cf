"""What all tests share: golden texts, and one example budget for hypothesis that a slow machine keeps up with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

GOLDEN = Path(__file__).parent / "golden"

hypothesis.settings.register_profile("graphopt", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("graphopt")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the texts of tests/golden anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """golden(name, found, before=""): `found` equals the file tests/golden/<name>; a failure shows all three texts."""

    def compare(name: str, found: str, before: str = "") -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found, encoding="utf-8")
        expected = path.read_text(encoding="utf-8") if path.exists() else "(no such file; run pytest --update-golden)\n"
        if found != expected:
            shown = f"--- before\n{before}" if before else ""
            pytest.fail(f"{name} differs\n{shown}--- found\n{found}--- expected\n{expected}", pytrace=False)

    return compare
