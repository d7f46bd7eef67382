"""Expert load balance: measurement, control by router biases, and balance loss."""
