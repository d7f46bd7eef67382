"""Parallelism applied to a model from outside: data, expert, context and pipeline parallelism on one process grid.

config.py      degrees of parallelism and their validation
mesh.py        process grid
rows.py        rows, and parts of rows, of a process
build.py       a model built for one process, with its part of the values
fsdp.py        sharded parameters, gathered for use
expert.py      experts on other processes; all_to_all.py: overlapped exchange of rows
context.py     attention over rows distributed over processes
pipeline.py    layers on other processes
norms.py       norm of sharded gradients;  reduce.py: sums over all processes
state.py       initial and checkpoint values of a sharded model
"""
