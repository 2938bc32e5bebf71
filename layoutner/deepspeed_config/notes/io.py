"""Disk: checkpoints, asynchronous I/O for NVMe, and DataStates checkpoints."""

from layoutner.deepspeed_config.key import NULL, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "checkpoint": {
        "tag_validation": Key("What to do when ranks save under different tags.", case_insensitive=True),
        "load_universal": "Load a checkpoint converted by ds_to_universal, for any number of ranks.",
        "use_node_local_storage": "Each node has its own disk: every node writes the model and reads its own files.",
        "parallel_write": "Parallel writing.",
        "checkpoint_serialization": "torch.save's zip format; false is the older one, faster with the fast writer.",
        "writer": Key("The fast writer; unset, torch.save.", types=OBJECT + NULL),
    },
    "checkpoint.parallel_write": {
        "pipeline_stage": "Ranks of different pipeline stages write their own layers at once.",
    },
    "checkpoint.writer": {
        "type": Key("How files are written; mock writes none.", types=STRING + NULL, case_insensitive=True),
        "io_buffer_size": Key("Buffer in pinned memory.", "bytes", exclusive_minimum=0),
        "io_buffer_double": "Fill one half of the buffer while the other is written.",
        "show_statistics": "Say how fast writing went.",
        "data_parallel": Key(
            "Spread writing over the ranks of a replica, of a CPU socket or of a machine; unset, one rank writes.",
            types=STRING + NULL,
            case_insensitive=True,
        ),
        "decoupled": "Write in another process while training goes on.",
        "io_multiplier": Key("Files a writer, to use more disks.", minimum=1),
    },
    "datastates_ckpt": {
        "*": None,
    },
    "aio": {
        "block_size": Key("Size of one request.", "bytes", exclusive_minimum=0),
        "queue_depth": Key("Requests in flight.", "requests", exclusive_minimum=0),
        "intra_op_parallelism": Key("Threads that share one read or write.", "threads", minimum=1),
        "single_submit": "Submit requests one by one.",
        "overlap_events": "Submit new requests while earlier ones are completed.",
        "use_gds": "NVIDIA GPUDirect Storage; needs CUDA.",
    },
}
