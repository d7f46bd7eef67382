"""What keeps a long run on its feet: measurements, the hidden z-loss, loss spikes, silent data corruption."""
