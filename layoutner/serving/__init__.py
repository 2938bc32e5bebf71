"""A model behind HTTP: documents are uploaded, fields are answered."""
