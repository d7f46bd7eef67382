"""Training stability: measurements, hidden z-loss, loss spikes, silent data corruption."""
