"""The network families: opening a pretrained checkpoint and building the network."""
