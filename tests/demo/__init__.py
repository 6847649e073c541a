"""`make demo`: a real recording through both pods by three stock clients."""
