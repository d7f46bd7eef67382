"""The numerical ground of the project: one operation a folder, one public function behind each.

`reference.py` is the plain meaning of an operation, `cpu.py` the fast version for processors where it differs.
`kernels.select` picks between them by device; `LONGCAT_KERNELS=reference|cpu|triton` forces one for every operation.
"""
