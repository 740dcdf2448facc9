"""A meta-reinforcement-learning platform: the kernel that task families and agents plug into."""

__version__ = "0.1.0"
