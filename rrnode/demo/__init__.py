"""`rrnode demo`: the example network of the design document, as real processes on a real chain."""
