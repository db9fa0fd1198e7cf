"""What the README says is true: its example runs, its tables list what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from graphopt.config import Config

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_examples_learn(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "\n".join(examples)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"loss \S+ accuracy (\S+)\n\[(.*)\]\n", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) > 0.85
    first, second, third = map(float, found[2].split(", "))
    assert first > second > third


def test_the_switch_table_lists_the_switches() -> None:
    table = README.partition("## Switches")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([A-Z]+)` \|", table, re.MULTILINE) == [field.name.upper() for field in fields(Config)]


def test_the_start_is_the_two_commands() -> None:
    start = README.partition("## Start")[2].partition("\n## ")[0]
    commands = [line.partition("#")[0].strip() for line in re.findall(r"```sh\n(.*?)```", start, re.DOTALL)[0].splitlines()]
    assert commands == ["pip install -e . && graphopt demo", "pip install -e '.[test]' && pytest"]


def test_documents_name_files_that_exist() -> None:
    architecture = (REPOSITORY / "graphopt" / "README.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"`((?:tools|tests|runtime|graphopt|passes|common|kernel|llvm|ir|opdefs|nn|ops)/[\w/.]*)`", architecture)
    )
    missing = [name for name in named if not any((REPOSITORY / root / name).exists() for root in ("", "graphopt"))]
    assert named and not missing
