"""The version of this program, as people see it; `pyproject.toml` has the same (a test compares them)."""

VERSION = "0.1.0"
AGENT = f"rrnode/{VERSION}"  # as peers are told
