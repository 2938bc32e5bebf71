"""Written by hand: what a script cannot read from DeepSpeed's code.

The meaning and unit of each key, values that DeepSpeed accepts or refuses against its own declarations, removed keys,
and names that people confuse with DeepSpeed's.
"""

from layoutner.deepspeed_config.key import Notes
from layoutner.deepspeed_config.notes import autotuning, core, data_efficiency, io, monitor, parallel, precision, zero

NOTES: dict[str, Notes] = {
    **core.NOTES,
    **zero.NOTES,
    **precision.NOTES,
    **parallel.NOTES,
    **data_efficiency.NOTES,
    **io.NOTES,
    **monitor.NOTES,
    **autotuning.NOTES,
}
"""Dotted path of an object -> notes on its keys. In a path, `[]` is any element of an array, and `*` any name."""
