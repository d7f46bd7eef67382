"""longcat: from raw web crawl to a served language model. The one name that the distribution installs.

`cli`, `pipeline`, `model`, `kernels` and `stages` below it are the folders of those names at the top of the repository.
"""
