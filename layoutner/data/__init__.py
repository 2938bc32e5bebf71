"""Files become documents, documents become windows, windows become batches."""
