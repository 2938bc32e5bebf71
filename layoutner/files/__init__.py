"""Reading untrusted files: text, encodings, images."""
