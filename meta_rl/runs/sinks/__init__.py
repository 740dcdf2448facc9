"""Where a run's numbers and words go: one file a place; `choosing` lists them."""
