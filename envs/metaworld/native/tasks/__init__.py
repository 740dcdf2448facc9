"""Meta-World's tasks, one a file: `peg-insert-side-v3` is in `peg_insert_side.py`."""
