"""A policy that adapts to one task and is taken away: task, rounds, program, file."""
