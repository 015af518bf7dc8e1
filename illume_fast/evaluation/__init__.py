"""How good a model is: retrieval, reconstruction and naming scores with their intervals and controls."""
