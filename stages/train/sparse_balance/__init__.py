"""Load balance of training with sparse attention and documents of unequal lengths (SparseBalance, arXiv 2604.13847).

All windows of a step have as many tokens, but attention takes longer where documents are long or budgets are large, and
processes wait for the slowest. Two remedies, each a function of the seed, the step and a saved latency model, never of
measured time:

* `assignment`: which process computes which windows of a step, and in which order.
* `budgets`: keys per token by window and layer, moved towards the predicted time of the other processes within a bound
  on the lost coverage (`coverage`).
"""
