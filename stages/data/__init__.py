"""Data stages: from crawl to packed tokens."""
