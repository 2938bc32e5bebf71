"""layoutner: fine-tune LayoutLM-family models to label the words of scanned forms, with DeepSpeed."""

__version__ = "0.1.0"
