"""Optimizer, learning-rate schedule, weight average, precision and hyperparameter transfer."""
