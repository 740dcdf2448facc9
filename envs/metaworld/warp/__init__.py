"""Meta-World in MuJoCo Warp: the native simulator's scenes and task files, compiled by Warp.

`robot` acts and senses touch as all tasks do, and `task_env` is the `TaskEnv`.
"""
