"""The networks, and the loss they are trained on."""
