"""Open a database that belongs to one node for ever: to the newest schema, and never with another seed or network."""

from pathlib import Path

from sqlalchemy import select

from protocols.ids import PeerId
from rrnode.errors import StorageFailed
from rrnode.storage import schema
from rrnode.storage.database import Database
from rrnode.storage.migrate import revision_of, upgrade


def open_owned(where: Path | str, *, node_id: PeerId, network: str, writes_again: bool = False) -> Database:
    """Open the database, making it or bringing it to the newest schema first.

    Args:
        writes_again: see `Database`.

    Raises:
        StorageFailed: cannot be opened, is damaged, newer than this program, or of another seed or network.
    """
    database = Database(where, writes_again=writes_again)
    try:
        with database.writing() as connection:
            upgrade(connection)
            known = {row.key: row.value for row in connection.execute(select(schema.meta))}
            mine = {"node_id": node_id.hex(), "network": network}
            if not known:
                connection.execute(schema.meta.insert(), [{"key": key, "value": mine[key]} for key in mine])
            else:
                check_owner(database.name, known, mine)
        return database
    except BaseException:
        database.close()
        raise


def open_to_read(where: Path | str) -> tuple[Database, dict[str, str]]:
    """Look into the database of a node that may be running: the database, and what its table `meta` says.

    Raises:
        StorageFailed: not there, no database of a node, or of another schema.
    """
    database = Database(where, read_only=True)
    try:
        with database.reading() as connection:
            revision = revision_of(connection)
            if revision != schema.HEAD:
                raise StorageFailed(f"{database.name} has schema {revision}, {schema.HEAD} wanted: start the node once")
            known = {row.key: row.value for row in connection.execute(select(schema.meta))}
        return database, known
    except BaseException:
        database.close()
        raise


def check_owner(name: str, known: dict[str, str], mine: dict[str, str]) -> None:
    """Refuse a database of another node, given what its table `meta` says. Raises StorageFailed."""
    if known.get("network") != mine["network"]:
        raise StorageFailed(
            f"{name} belongs to the network {known.get('network')}, this node is set to {mine['network']}"
        )
    if known.get("node_id") != mine["node_id"]:
        raise StorageFailed(
            f"{name} belongs to node {known.get('node_id')}, the seed in use makes node {mine['node_id']}: "
            "put the right seed back, or use another data directory"
        )
