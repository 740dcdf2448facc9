"""Rollouts by workers on a Ray cluster: the tasks of a meta-batch are shared out among them.

`presence` and `cluster` find Ray, join it or start it. `crew` keeps the workers and gives them
jobs, `worker` is what runs in each, and `job` is the plain data that travels. `collector` puts the
pieces together.
"""
