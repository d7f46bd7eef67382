"""Two-level cache of latent attention: all positions in a slow tier, the blocks that decoding reads in a fast one."""
