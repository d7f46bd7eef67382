"""What `longcat data inspect` shows of a filtered artifact: counts, distributions, examples, other thresholds tried.

Everything but the examples' texts is read from the attributes that lie beside the kept documents.
"""
