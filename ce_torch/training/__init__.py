"""The chapter's program: the network, MNIST, the training and its files."""
