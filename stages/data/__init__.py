"""The data stages: from crawl to packed tokens."""
