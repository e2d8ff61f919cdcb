"""The chapter's program: the network, MNIST, its training and what is kept of it."""
