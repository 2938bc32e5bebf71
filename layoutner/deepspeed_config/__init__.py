"""The schema of DeepSpeed configs, and a check of any DeepSpeed JSON. Imports nothing else of layoutner.

scripts/deepspeed_schema.py generates `data/` from each DeepSpeed release; `notes/` is written by hand.
"""
