"""Published quality rules: measurements, thresholds, and decision for one document."""
