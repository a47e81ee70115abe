"""The edge host: cuts the network, holds the back in PyTorch, trains a zone."""
