"""Tasks, and the batches made of them."""
