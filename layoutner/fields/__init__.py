"""Fields: from labelled pages to one record of values per document."""
