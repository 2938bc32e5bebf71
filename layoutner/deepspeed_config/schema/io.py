"""Disk: checkpoints, asynchronous I/O for NVMe, and DataStates checkpoints."""

from layoutner.deepspeed_config.schema.key import BOOLEAN, INTEGER, NULL, OBJECT, STRING, Block, Key

AIO = Block(
    keys={
        "block_size": Key(INTEGER, 1_048_576, "Size of one request.", unit="bytes", exclusive_minimum=0),
        "queue_depth": Key(INTEGER, 8, "Requests in flight.", unit="requests", exclusive_minimum=0),
        "intra_op_parallelism": Key(INTEGER, 1, "Threads that share one read or write.", unit="threads", minimum=1),
        "single_submit": Key(BOOLEAN, False, "Submit requests one by one."),
        "overlap_events": Key(BOOLEAN, True, "Submit new requests while earlier ones are completed."),
        "use_gds": Key(BOOLEAN, False, "NVIDIA GPUDirect Storage; needs CUDA."),
    },
    strict=False,
    meaning="Asynchronous I/O, for offload to NVMe and the fast checkpoint writer.",
)

WRITER = Block(
    keys={
        "type": Key(
            STRING + NULL,
            "FAST",
            "How files are written; mock writes none.",
            choices=("FAST", "PYTHON", "MOCK", None),
            case_insensitive=True,
        ),
        "io_buffer_size": Key(INTEGER, 67_108_864, "Buffer in pinned memory.", unit="bytes", exclusive_minimum=0),
        "io_buffer_double": Key(BOOLEAN, True, "Fill one half of the buffer while the other is written."),
        "show_statistics": Key(BOOLEAN, False, "Say how fast writing went."),
        "data_parallel": Key(
            STRING + NULL,
            None,
            "Spread writing over the ranks of a replica, of a CPU socket or of a machine; unset, one rank writes.",
            choices=("REPLICA", "SOCKET", "MACHINE", None),
            case_insensitive=True,
        ),
        "decoupled": Key(BOOLEAN, False, "Write in another process while training goes on."),
        "io_multiplier": Key(INTEGER, 1, "Files a writer, to use more disks.", minimum=1),
    },
    strict=False,
    meaning="The fast checkpoint writer.",
)

CHECKPOINT = Block(
    keys={
        "tag_validation": Key(
            STRING,
            "WARN",
            "What to do when ranks save under different tags.",
            choices=("IGNORE", "WARN", "FAIL"),
            case_insensitive=True,
        ),
        "load_universal": Key(
            BOOLEAN, False, "Load a checkpoint converted by ds_to_universal, for any number of ranks."
        ),
        "use_node_local_storage": Key(
            BOOLEAN, False, "Each node has its own disk: every node writes the model and reads its own files."
        ),
        "parallel_write": Key(
            OBJECT,
            {},
            "Who writes what.",
            block=Block(
                keys={
                    "pipeline_stage": Key(
                        BOOLEAN, False, "Ranks of different pipeline stages write their own layers at once."
                    )
                },
                strict=False,
                meaning="Parallel writing.",
            ),
        ),
        "checkpoint_serialization": Key(
            BOOLEAN, True, "torch.save's zip format; false is the older one, faster with the fast writer."
        ),
        "writer": Key(OBJECT + NULL, None, "The fast writer; unset, torch.save.", block=WRITER),
    },
    strict=False,
    meaning="Saving and loading.",
)

DATASTATES_CKPT = Block(
    keys={},
    strict=False,
    open=True,
    meaning="Settings passed as they are to the datastates package, which must be installed.",
)
