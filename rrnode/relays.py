"""The relays that a node's owner named (`relays.toml` in its directory), beside those that ship (`bootstrap.relays`)."""

import os
from pathlib import Path

from bootstrap.networks import Network
from bootstrap.relays import Relay, parse_relays, shipped_relays, write_relays
from rrnode.config.settings import Settings
from rrnode.errors import UserError

FILE_NAME = "relays.toml"
MOST_BYTES = 1 << 18  # of the file: 64 relays take a tenth


def own_relays(data_dir: Path, network: Network) -> tuple[Relay, ...]:
    """Those in the node's own list; none when there is no file. Raises UserError when it cannot be read."""
    path = data_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            lists = parse_relays(file.read(MOST_BYTES).decode())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "check its owner and rights") from None
    except ValueError as error:  # TOML, UTF-8, or what stands there
        raise UserError(f"{path}: {error}", "correct it, or remove it and add the relays again") from None
    return lists[network.name].relays if network.name in lists else ()


def add_relay(data_dir: Path, network: Network, relay: Relay) -> None:
    """Add it to the node's own list; one of the same identity is replaced. Raises UserError."""
    others = tuple(each for each in own_relays(data_dir, network) if each.identity != relay.identity)
    text = write_relays(network.name, (*others, relay))
    try:
        parse_relays(text)
    except ValueError as error:
        raise UserError(f"this relay cannot be added: {error}", "see: rrnode relay add --help") from None
    path = data_dir / FILE_NAME
    fresh = path.with_suffix(".new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}", "check the disk, then try again") from None


def listed_relays(settings: Settings) -> tuple[Relay, ...]:
    """Those to join by: the owner's, and what ships if that is wanted. Raises UserError."""
    own = own_relays(settings.data_dir, settings.network)
    shipped = shipped_relays(settings.network).relays if settings.host.dial_shipped_relays else ()
    named = {each.identity for each in own}
    return (*own, *(each for each in shipped if each.identity not in named))
