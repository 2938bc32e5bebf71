"""`layoutner demo`: synthetic forms and a small model from scratch, through the whole toolkit, without a download."""
