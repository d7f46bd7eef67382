"""Text utilities shared by data stages: words, characters, Markdown marks, language and quality."""
