"""Plays an environment in EnvPool, in a Python of its own, for `bench_sampling.py`.

Usage: PYTHON _envpool_peer.py ID WORLDS THREADS HORIZON ACTIONS END_TOGETHER

Needs EnvPool and numpy alone. For every line on standard input it plays one episode in every world
with actions at random, resets all, and prints the seconds that it took.
"""

import sys
import time

import envpool
import numpy as np

name, (worlds, threads, horizon, size, end_together) = sys.argv[1], map(int, sys.argv[2:])
envs = envpool.make_gymnasium(
    name, num_envs=worlds, num_threads=threads, max_episode_steps=horizon, seed=0
)
actions = np.random.default_rng(0).uniform(-1, 1, (horizon, worlds, size)).astype(np.float32)
envs.reset()
print(envpool.__version__, flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = envs.step(action)
    # The step after an episode's end resets it.
    assert (terminated | truncated).all() or not end_together, "the episodes should end here"
    envs.step(actions[0])
    print(time.perf_counter() - started, flush=True)
