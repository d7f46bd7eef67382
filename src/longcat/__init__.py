"""longcat: from raw web crawl to a served language model. The one name that the distribution installs.

`cli`, `pipeline`, `model`, `kernels` and `stages` below it are the folders of those names at the top of the repository.
"""

import os
import sys

# `python -m longcat.cli` puts the current folder first on the module path; a typing.py lying there is not ours to run.
if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] != [os.path.dirname(os.path.dirname(__file__))]:
    del sys.path[0]
