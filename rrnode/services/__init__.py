"""One service per protocol: bytes and streams on one side, events for the engines on the other (DESIGN 3)."""
