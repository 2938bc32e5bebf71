"""Use of a trained model: prediction, export, drawing."""
