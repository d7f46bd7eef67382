"""Parallelism, applied to a model from outside: sharded data, experts, context and pipeline on one grid of processes.

config.py      how many processes every kind has; what fits together
mesh.py        which process does what
rows.py        which rows, and which parts of rows, a process reads
build.py       a model built for one process, from none of its values to the ones that are its own
fsdp.py        parameters in shards, gathered where they are used
expert.py      experts on other processes; all_to_all.py: how rows reach them behind other work
context.py     attention over rows that several processes hold parts of
pipeline.py    layers on other processes
norms.py       the norm of a gradient that lies in shards;  reduce.py: sums over all processes
state.py       initial values of a model in shards, and values out of checkpoints
"""
