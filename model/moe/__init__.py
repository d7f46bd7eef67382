"""Mixture of experts: router, FFN experts and zero-computation experts."""
