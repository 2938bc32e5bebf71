"""Annotation tools: their regions become labels of words, and predictions become their tasks."""
