"""Steps MuJoCo's worlds by MuJoCo Warp: thousands side by side on an NVIDIA GPU.

`dialect` lets Warp compile the same task code as numba, `worlds` holds the worlds of one model, and
`task_env` is the `TaskEnv` over all of them. Warp also compiles for the processor, which is for
tests alone: MuJoCo's C library is far faster there.
"""
