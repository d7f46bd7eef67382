"""The page about training runs that `longcat report` writes: read, reduce, lay out, draw.

`runs` finds what a word means, `metrics` reads its records into columns, `reduce` makes few points of many, `panels`
says what is drawn, `summary` what stands in the tables, and `page` puts it all into one file that needs nothing else.
"""
