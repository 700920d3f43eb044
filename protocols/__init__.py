"""The rules of rrnode: pure state machines and formats, with no I/O, clock, randomness or runtime (DESIGN 3)."""
