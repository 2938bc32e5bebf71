"""Written by hand: what DeepSpeed's code does not say of a key in a form that a script can read.

What a key means and counts, where DeepSpeed takes more or less than its code declares, what is gone, other names.
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
"""Notes on the keys of every object, by its dotted path: `[]` stands for any element, `*` for any name."""
