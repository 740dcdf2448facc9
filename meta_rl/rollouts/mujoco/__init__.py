"""Steps MuJoCo worlds of one or several models on threads, by compiled code.

A family brings `Scene`s: a model, snapshots of its resets, and three compiled functions that act,
observe and reward. `row` says what they see, `scene` takes snapshots, `engine` steps worlds,
`task_env` makes a `TaskEnv` of it, and `memory` is the one place that knows where MuJoCo keeps
things. docs/native_tasks.md shows a small family.
"""
