"""Main content of HTML pages: blocks of text, their features, a scorer, and markdown of what is kept."""
