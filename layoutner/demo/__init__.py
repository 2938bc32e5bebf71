"""`layoutner demo`: run the whole toolkit on synthetic forms with a small untrained model, without a download."""
