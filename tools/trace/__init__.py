"""One payment as one's own nodes saw it; see `tools/README.md`."""
