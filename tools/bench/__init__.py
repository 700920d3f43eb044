"""Speed and memory as figures with a floor measured in the same run (`python -m tools.bench`)."""
