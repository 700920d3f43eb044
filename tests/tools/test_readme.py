"""The page on the tools: every tool is on it with an example, and every example's options exist."""

import importlib
import pkgutil
import re
from pathlib import Path

import typer
from typer.testing import CliRunner

import tools

PAGE = (Path(tools.__file__).parent / "README.md").read_text(encoding="utf-8")
SHARED = {"common", "frames", "own", "words"}  # rooms of the tools, not tools


def test_every_tool_is_on_the_page_with_an_example() -> None:
    there = {each.name for each in pkgutil.iter_modules(tools.__path__)} - SHARED
    assert set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)) == there
    assert set(re.findall(r"^    python -m tools\.(\w+)", PAGE, re.MULTILINE)) == there


def test_the_options_in_the_examples_exist() -> None:
    for name, rest in re.findall(r"^    python -m tools\.(\w+)(.*)", PAGE, re.MULTILINE):
        options = re.findall(r"--[a-z-]+", rest)
        if options:
            package = hasattr(importlib.import_module(f"tools.{name}"), "__path__")
            module = importlib.import_module(f"tools.{name}.__main__" if package else f"tools.{name}")
            app = typer.Typer()
            app.command()(module.main)
            known = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
            assert [each for each in options if each not in known] == [], name
