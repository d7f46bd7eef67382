"""Readers and writers of artifact files; imported by stages, and independent of all stages."""
