"""Files that other people made: text, encodings, images."""
