"""The rules are pure: modules under `protocols/` import only what this list allows, found in their syntax trees (DESIGN 3).

A list of what is allowed, not of what is forbidden: whatever is new must be argued for here. Imports inside functions
and under `TYPE_CHECKING` count like any other. The check is itself checked against small modules that break each rule.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "protocols").rglob("*.py"))

# The part of the standard library that has no clock, randomness, files, network, processes or threads.
STANDARD = {
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "collections.abc", "contextlib", "copy",
    "dataclasses", "enum", "fractions", "functools", "hashlib", "heapq", "hmac", "io", "itertools", "math", "operator",
    "re", "string", "struct", "types", "typing",
}  # fmt: skip
CRYPTOGRAPHY = {
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.hashes",
    "cryptography.hazmat.primitives.kdf.hkdf",
}
BITCOIN = {
    "bitcoin.core",
    "bitcoin.core.contrib.ripemd160",
    "bitcoin.core.key",
    "bitcoin.core.script",
    "bitcoin.core.scripteval",
    "bitcoin.core.serialize",
    "bitcoin.segwit_addr",
}
# `bitcoin.rpc` talks to a network, `bitcoin.net` and `bitcoin.messages` belong to one: never here.
IMPURE_CALLS = {"open", "input", "print", "eval", "exec", "compile", "__import__", "breakpoint"}


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    """Every module that is imported anywhere in the tree, with its line; relative imports are reported as they stand."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            if name in ("cryptography.hazmat.primitives", "bitcoin", "cryptography"):
                found += [(node.lineno, f"{name}.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, name))
    return found


def allowed(name: str, path: str) -> bool:
    """Whether the module at `path` (relative to the root, with slashes) may import `name`."""
    top = name.split(".")[0]
    if top == "protocols" or name in STANDARD:
        return True
    if top == "msgspec":
        return path.startswith("protocols/wire/")
    return top == "coincurve" or name in BITCOIN or name in CRYPTOGRAPHY


def offences(source: str, path: str) -> list[str]:
    tree = ast.parse(source)
    found = [f"{path}:{line} imports {name}" for line, name in imports(tree) if not allowed(name, path)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{path}:{node.lineno} calls {node.func.id}")
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            found.append(f"{path}:{node.lineno} is asynchronous")
    return found


def test_the_rules_are_pure():
    assert len(MODULES) > 30
    found = [
        offence
        for module in MODULES
        for offence in offences(module.read_text(encoding="utf-8"), module.relative_to(ROOT).as_posix())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "offence"),
    [
        ("import trio", "imports trio"),
        ("import time", "imports time"),
        ("from os import path", "imports os"),
        ("def f():\n    import random", "imports random"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rrnode.host", "imports rrnode.host"),
        ("import msgspec", "imports msgspec"),
        ("from msgspec import Struct", "imports msgspec"),
        ("from cryptography.hazmat.primitives import serialization", "imports cryptography.hazmat.primitives.seri"),
        ("from cryptography.hazmat.primitives.asymmetric import rsa", "imports cryptography.hazmat.primitives.asym"),
        ("import bitcoin.rpc", "imports bitcoin.rpc"),
        ("from bitcoin import rpc", "imports bitcoin.rpc"),
        ("from . import units", "imports ."),
        ("import logging", "imports logging"),
        ("import secrets, math", "imports secrets"),
        ("import importlib", "imports importlib"),
        ("open('x')", "calls open"),
        ("print('x')", "calls print"),
        ("async def f(): pass", "is asynchronous"),
    ],
)
def test_each_broken_rule_is_seen(source, offence):
    found = offences(source, "protocols/routing/broken.py")
    assert len(found) == 1
    assert offence in found[0]


def test_what_is_allowed_is_allowed():
    source = "import math\nfrom fractions import Fraction\nfrom protocols.units import Msat\nimport coincurve\n"
    source += "from cryptography.hazmat.primitives.kdf.hkdf import HKDF\nfrom bitcoin.core.script import CScript\n"
    assert offences(source, "protocols/payment/fine.py") == []
    assert offences("import msgspec", "protocols/wire/fine.py") == []
