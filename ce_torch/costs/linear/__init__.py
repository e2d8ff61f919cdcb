"""The output layer and its log-likelihood as one cost, computed in blocks of its classes or of its examples."""
