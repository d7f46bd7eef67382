"""Data of `longcat data inspect`: counts, distributions, examples, and effects of other thresholds.

Everything except example texts is read from the attributes files.
"""
