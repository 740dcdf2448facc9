"""The native simulator of locomotion: what `meta_rl.rollouts.mujoco` must know to step its worlds.

`row` says what a reward sees, `robot` acts and observes as all robots do, `rewards` holds the
tasks' rewards, and `scene` says where each robot's numbers are and how its episodes begin.
"""
