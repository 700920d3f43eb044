"""Bring a database to the newest schema, or refuse one that is newer than this program (Alembic)."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from rrnode.errors import StorageFailed
from rrnode.storage.schema import HEAD

_SCRIPTS = Path(__file__).parent / "migrations"


def revision_of(connection: Connection) -> str | None:
    """The schema revision of an open database; None when it is empty.

    Raises:
        StorageFailed: it has tables but no revision, so it is somebody else's.
    """
    tables = inspect(connection).get_table_names()
    if "alembic_version" in tables:
        revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if revision:
            return str(revision)
        tables.remove("alembic_version")
    if tables:
        raise StorageFailed(
            f"the database holds other tables ({', '.join(sorted(tables)[:3])}): it is no node's database"
        )
    return None


def upgrade(connection: Connection, to: str = HEAD) -> bool:
    """Run what is missing, inside the caller's transaction.

    Returns:
        Whether anything was done.

    Raises:
        StorageFailed: the database was written by a newer version of this program.
    """
    current = revision_of(connection)
    if current == to:
        return False
    from alembic import command  # heavy, and not needed on most starts
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise StorageFailed(
            f"the database has schema {current}, this program knows up to {HEAD}: it was written by a newer version; use that one"
        )
    command.upgrade(config, to)
    return True
