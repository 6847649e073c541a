"""The audio transformer: recordings and live audio in, windows of 16 kHz mono samples to a speech predictor, text out."""
