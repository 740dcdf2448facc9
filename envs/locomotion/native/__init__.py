"""The native simulator of locomotion: what `meta_rl.rollouts.mujoco` must know to step its worlds.

`row` says what a reward sees, `observation` writes it, `robot` acts and senses as all robots do,
`rewards` holds the tasks' rewards, and `scene` says where each robot's numbers are and how its
episodes begin. `observation` and `rewards` compile with Warp, too.
"""
