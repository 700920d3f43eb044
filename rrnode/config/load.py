"""Reading the configuration: defaults, file, environment, flags, each over the one before (DESIGN 3). Nothing is guessed: an unknown key is an error that names its nearest neighbour."""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from rrnode.config.checks import contradictions
from rrnode.config.settings import NETWORK_DEFAULTS, SECTIONS, ConfigError, NodeSettings, Settings

CONFIG_NAME = "rrnode.toml"
ENV_PREFIX = "RRNODE_"
NOT_SETTINGS = frozenset({"RRNODE_DATADIR", "RRNODE_NETWORK", "RRNODE_DEBUG"})  # global flags of the command line
MAX_FILE = 1 << 20  # bytes; a configuration is a few kilobytes


# --- one value --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from, for messages. `text` sources (environment, flags) write lists with commas."""

    name: str
    text: bool = False


def _wanted(spec: dataclasses.Field[Any], kind: Any) -> str:
    meta = spec.metadata
    if meta["choices"]:
        return "one of " + ", ".join(meta["choices"])
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        number = "a whole number" if kind is int else "a number"
        return f"{number} from {meta['low']} to {meta['high']}"
    return "a list of texts" if get_origin(kind) is tuple else "a text"


def _plain(kind: Any) -> Any:
    return getattr(kind, "__supertype__", kind)


def _from_text(value: str, kind: Any) -> Any:
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(value.lower(), value)
    if get_origin(kind) is tuple:
        return [part.strip() for part in value.split(",") if part.strip()]
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            return value
    return value


def _checked(section: str, key: str, value: Any, source: Source) -> Any:
    spec = SECTIONS[section].__dataclass_fields__[key]
    kind = _plain(get_type_hints(SECTIONS[section])[key])
    came = value
    if source.text:
        value = _from_text(value, kind)
    meta = spec.metadata
    if get_origin(kind) is tuple:
        good = isinstance(value, list) and all(isinstance(part, get_args(kind)[0]) for part in value)
        value = tuple(value) if good else value
    elif kind is float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    else:
        good = type(value) is kind
    if good and kind in (int, float):
        good = meta["low"] <= value <= meta["high"]
    if good and meta["choices"]:
        good = value in meta["choices"]
    if not good:
        shown = "(hidden)" if not spec.repr else f"{came!r:.80}"
        raise ConfigError(f"{source.name}: {section}.{key} is {shown}, wanted {_wanted(spec, kind)}")
    return float(value) if kind is float else value


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "known are: " + ", ".join(sorted(known))


def _check_key(section: str, key: str | None, source: Source) -> None:
    if section not in SECTIONS:
        raise ConfigError(f"{source.name}: there is no section {section[:80]!r}", _nearest(section, list(SECTIONS)))
    if key is not None and key not in SECTIONS[section].__dataclass_fields__:
        everywhere = [f"{name}.{known}" for name in SECTIONS for known in SECTIONS[name].__dataclass_fields__]
        elsewhere = [full for full in everywhere if full.endswith("." + key)]
        hint = f"did you mean {elsewhere[0]!r}?" if elsewhere else ""
        raise ConfigError(
            f"{source.name}: there is no setting {section}.{key[:80]}",
            hint or _nearest(key, list(SECTIONS[section].__dataclass_fields__)),
        )


# --- sources ----------------------------------------------------------------------------------------------------------

Values = dict[tuple[str, str], tuple[Any, Source]]


def _from_file(path: Path) -> Values:
    source = Source(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE:
        raise ConfigError(f"{path} has more than {MAX_FILE} bytes, which is no configuration")
    try:
        document = tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not a configuration: nested too deeply") from None
    values: Values = {}
    for section, table in document.items():
        _check_key(section, None, source)
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} is {table!r:.80}, wanted a section: [{section}]")
        for key, value in table.items():
            _check_key(section, key, source)
            values[section, key] = _checked(section, key, value, source), source
    return values


def _from_environment(environment: Mapping[str, str]) -> Values:
    values: Values = {}
    for name, text in sorted(environment.items()):
        if not name.startswith(ENV_PREFIX) or name in NOT_SETTINGS:
            continue
        section, _, key = name[len(ENV_PREFIX) :].lower().partition("_")
        source = Source(f"environment variable {name}", text=True)
        _check_key(section, key, source)
        values[section, key] = _checked(section, key, text, source), source
    return values


def _from_flags(flags: Mapping[str, str]) -> Values:
    values: Values = {}
    for name, text in flags.items():
        section, _, key = name.partition(".")
        source = Source("command line", text=True)
        _check_key(section, key, source)
        values[section, key] = _checked(section, key, text, source), source
    return values


def load(
    data_dir: Path,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    need_file: bool = True,
) -> Settings:
    """Read and check the configuration of one data directory.

    Args:
        environment: variables; only those that begin with `RRNODE_` matter.
        flags: `{"section.key": text}` from the command line.
        need_file: whether a missing file is an error.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    path = data_dir / CONFIG_NAME
    values: Values = {}
    if need_file or path.exists():
        if not path.exists():
            raise ConfigError(f"there is no node in {data_dir}", f"make one with: rrnode --datadir {data_dir} init")
        values |= _from_file(path)
    values |= _from_environment(environment or {})
    values |= _from_flags(flags or {})
    network = values.get(("node", "network"), (NodeSettings().network, Source("default")))[0]
    merged = {
        place: (value, Source(f"default of {network}")) for place, value in NETWORK_DEFAULTS.get(network, {}).items()
    }
    if any(("chain", key) in values for key in ("url", "cookie_file", "user", "zmq")):
        merged.pop(("chain", "kind"), None)  # whoever says where a bitcoind is means to use it
    merged |= values
    sections = {
        name: kind(**{key: value for (section, key), (value, _) in merged.items() if section == name})
        for name, kind in SECTIONS.items()
    }
    settings = Settings(data_dir=data_dir, **sections)
    check(settings, {place: source.name for place, (_, source) in merged.items()})
    return settings


# --- what must hold together ------------------------------------------------------------------------------------------


def check(settings: Settings, sources: Mapping[tuple[str, str], str] | None = None) -> None:
    """Refuse settings that cannot work together. `sources` names where each value came from, for the message.

    Raises:
        ConfigError: the first contradiction.
    """
    for section, key, problem, hint in contradictions(settings):
        source = (sources or {}).get((section, key), "default")
        value = getattr(getattr(settings, section), key)
        raise ConfigError(f"{source}: {section}.{key} is {value!r:.80}, {problem}", hint)
