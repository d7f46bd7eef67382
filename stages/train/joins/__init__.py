"""How a run goes on from another: learning rate, saves as checkpoints, known runs."""
