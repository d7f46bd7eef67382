"""The LongCat-Flash mixture-of-experts transformer: configuration, layers, caches, checkpoints, growth, accounting."""
