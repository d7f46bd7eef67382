"""What a run at scale needs: layout, memory, traffic, time and cost, by arithmetic alone."""
