"""The preprocess transformers: CPU pods that hold every public route and turn uploads into tensors."""
