"""A recording of a node's engines, run again (`rrnode.recording`)."""
