"""Disk access: checkpoints, asynchronous I/O for NVMe, and DataStates checkpoints."""

from layoutner.deepspeed_config.key import NULL, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "checkpoint": {
        "tag_validation": Key("What to do if ranks save under different tags.", case_insensitive=True),
        "load_universal": "Load a checkpoint that ds_to_universal converted; it fits any number of ranks.",
        "use_node_local_storage": "Use a disk on each node: every node writes the model and reads its own files.",
        "parallel_write": "Parallel writing.",
        "checkpoint_serialization": "Use torch.save's zip format; false: the older one, faster with the fast writer.",
        "writer": Key("The fast writer; if unset, torch.save.", types=OBJECT + NULL),
    },
    "checkpoint.parallel_write": {
        "pipeline_stage": "Pipeline stages write their own layers in parallel.",
    },
    "checkpoint.writer": {
        "type": Key("How files are written; mock writes no files.", types=STRING + NULL, case_insensitive=True),
        "io_buffer_size": Key("Size of the buffer in pinned memory.", "bytes", exclusive_minimum=0),
        "io_buffer_double": "Fill one half of the buffer while the other half is written.",
        "show_statistics": "Log the speed of writing.",
        "data_parallel": Key(
            "Distribute writing over the ranks of a replica, CPU socket or node; if unset, one rank writes.",
            types=STRING + NULL,
            case_insensitive=True,
        ),
        "decoupled": "Write in another process while training continues.",
        "io_multiplier": Key("Files per writer, to use more disks.", minimum=1),
    },
    "datastates_ckpt": {
        "*": None,
    },
    "aio": {
        "block_size": Key("Size of one request.", "bytes", exclusive_minimum=0),
        "queue_depth": Key("Requests in flight.", "requests", exclusive_minimum=0),
        "intra_op_parallelism": Key("Threads that share one read or write.", "threads", minimum=1),
        "single_submit": "Submit requests one at a time.",
        "overlap_events": "Submit new requests while earlier ones are completed.",
        "use_gds": "NVIDIA GPUDirect Storage; needs CUDA.",
    },
}
