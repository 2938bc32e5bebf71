"""Every key that DeepSpeed reads from its JSON config, written down by hand; neither torch nor DeepSpeed is loaded.

`tests/deepspeed_config/test_deepspeed_schema.py` holds the tables against the installed DeepSpeed, key by key.
"""

from layoutner.deepspeed_config.schema.core import TOP
from layoutner.deepspeed_config.schema.json_schema import json_schema
from layoutner.deepspeed_config.schema.key import Block, Key
from layoutner.deepspeed_config.schema.optimizers import DEEPSPEED_TYPES, OPTIMIZERS, TORCH_TYPES
from layoutner.deepspeed_config.schema.removed import REMOVED, SWITCHES
from layoutner.deepspeed_config.schema.schedulers import DEEPSPEED_SCHEDULERS, NOT_FROM_JSON, SCHEDULERS

DEEPSPEED_VERSION = "0.19.8"
"""The release the tables were read from."""

__all__ = [
    "DEEPSPEED_SCHEDULERS",
    "DEEPSPEED_TYPES",
    "DEEPSPEED_VERSION",
    "NOT_FROM_JSON",
    "OPTIMIZERS",
    "REMOVED",
    "SCHEDULERS",
    "SWITCHES",
    "TOP",
    "TORCH_TYPES",
    "Block",
    "Key",
    "json_schema",
]
