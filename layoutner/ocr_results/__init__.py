"""Results of OCR engines and services, one module per format: unlabelled pages with their words and boxes."""
