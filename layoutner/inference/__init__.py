"""Documents become word labels: prediction, export, drawing."""
