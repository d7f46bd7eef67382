"""Data of `longcat data inspect`: documents by length; of filtered ones counts, distributions, examples, and effects of
other thresholds, read from the attributes files except for example texts.
"""
