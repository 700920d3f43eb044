"""The configuration of a node: `Settings`, and `load` to read it."""

from rrnode.config.load import CONFIG_NAME, check, load
from rrnode.config.settings import ConfigError, Settings

__all__ = ["CONFIG_NAME", "ConfigError", "Settings", "check", "load"]
