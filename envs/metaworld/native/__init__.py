"""The native simulator of Meta-World: MuJoCo's C library, stepped by compiled code.

`tasks/` holds a file for each of the 50 tasks: what its observation and reward look at, and the
reward itself. `row` says what a reward sees, `shaping` holds the shapes that rewards share,
`scene` takes snapshots of metaworld's own resets, `engine` steps worlds, and `mujoco_memory` is
the one place that knows where MuJoCo keeps things.
"""
