"""The native simulator of Meta-World: what `meta_rl.rollouts.mujoco` must know to step its worlds.

`tasks/` holds a file for each of the 50 tasks: what its observation and reward look at, and the
reward itself. `row` says what a reward sees, `shaping` holds the shapes that rewards share,
`observation` writes what is observed, `sawyer` acts and senses as all tasks do, and `scene` resets
worlds by metaworld's own environments. `tasks`, `shaping` and `observation` compile with Warp, too.
"""
