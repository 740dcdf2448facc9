"""Experiments in YAML, one file each; packaged so that an installed meta-rl finds them."""
