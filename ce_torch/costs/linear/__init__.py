"""The output layer and its log-likelihood as one cost, worked out block by block of its classes or of its examples."""
