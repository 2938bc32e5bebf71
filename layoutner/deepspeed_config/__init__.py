"""Any DeepSpeed JSON: its schema, and what is wrong with a file. Imports nothing else of layoutner.

`data/` holds what scripts/deepspeed_schema.py generates from each DeepSpeed release, `notes/` what is written by hand.
"""
