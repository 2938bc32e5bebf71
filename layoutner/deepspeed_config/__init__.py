"""Any DeepSpeed JSON: its schema, and what is wrong with a file. Imports nothing else of layoutner."""
