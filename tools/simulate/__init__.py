"""Networks of real engines in one process: no streams, no disk, no clock."""
