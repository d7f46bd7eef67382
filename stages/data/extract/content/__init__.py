"""Main content of HTML pages: text blocks, features, a scorer, and Markdown of kept blocks."""
