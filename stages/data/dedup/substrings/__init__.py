"""Substrings of at least N characters that occurred before, in any document: all but the first occurrence are removed.

A suffix array of the corpus, as deduplicate-text-datasets builds it, takes at least nine bytes of memory per character.
Here memory is bounded and the scratch files are small, with the same result:

1. Every shard is fingerprinted by winnowing (Schleimer et al. 2003): the smallest hash of k characters in every run of
   N - k + 1 positions, k = N / 2. Equal substrings of N characters have an equal fingerprint at the same place, and
   only about 4 / N of all positions have one.
2. Fingerprints that occur twice are found, one range of hashes at a time.
3. All substrings of N characters around these fingerprints are hashed, with their positions.
4. Of equal hashes all but the first position are removed; again one range of hashes at a time.

Positions count the characters of all kept documents: earlier corpora first, then the inputs in order.
"""
