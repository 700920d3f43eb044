"""The running node, on Trio."""
