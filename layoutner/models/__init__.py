"""Model families: open a pretrained model and build the network."""
