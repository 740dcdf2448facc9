"""Several trainings as one: the seeds of a config, and settings side by side."""
