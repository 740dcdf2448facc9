"""A meta-reinforcement-learning platform: the kernel that task families and agents plug into."""

import os

# Before torch is imported: its idle threads would otherwise spin for a while after each operation,
# on the cores that the simulator's threads need.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
