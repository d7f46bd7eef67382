"""Numerical operations: one folder per operation, with one public function each.

`reference.py` is the reference implementation of an operation, `cpu.py` a faster version for CPUs if there is one.
`kernels.select` chooses the version by device; `LONGCAT_KERNELS=reference|cpu|triton` forces one for every operation.
"""
