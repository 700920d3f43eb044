"""Since when a watcher knows a client, the network it came from, what a network has, and bytes counted as the disk takes them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Clients that are there count as known for ever, and as of one network that cannot be told."""
    op.add_column("watch_clients", sa.Column("since", sa.Integer, nullable=False, server_default="0"))
    op.add_column("watch_clients", sa.Column("network", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "watch_networks",
        sa.Column("network", sa.Text, nullable=False),
        sa.Column("used_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("network", name="pk_watch_networks"),
    )
    connection = op.get_bind()
    used: dict[int, int] = {}
    sizes = sa.text(
        "SELECT client, length(sealed) AS size, count(*) AS many FROM remedies GROUP BY client, length(sealed)"
    )
    for row in connection.execute(sizes):
        used[row.client] = used.get(row.client, 0) + row.many * _on_disk(row.size)
    for number, taken in used.items():
        values = {"taken": taken, "number": number}
        connection.execute(sa.text("UPDATE watch_clients SET used_bytes = :taken WHERE number = :number"), values)
    if used:
        insert = sa.text("INSERT INTO watch_networks (network, used_bytes) VALUES ('', :taken)")
        connection.execute(insert, {"taken": sum(used.values())})


def _on_disk(sealed: int) -> int:
    """`rrnode.storage.remedies.on_disk` as it was when this was written."""
    return (16 + sealed) * 3 // 2 + 10 if sealed < 960 else -(-(16 + sealed) // 4092) * 4096 + 1000


def downgrade() -> None:
    """Bytes stay counted as the disk takes them."""
    op.drop_table("watch_networks")
    op.drop_column("watch_clients", "network")
    op.drop_column("watch_clients", "since")
