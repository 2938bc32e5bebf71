"""The `data_efficiency` block: curriculum, batches of a number of tokens, and random layer-token drop."""

from layoutner.deepspeed_config.schema.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Block, Key

_DIFFICULTY = Key(INTEGER + NUMBER, None, "A difficulty.")

_CURRICULUM_SCHEDULE = Block(
    keys={
        "difficulty": Key(ARRAY, None, "Of fixed_discrete: the difficulties in turn.", items=_DIFFICULTY),
        "max_step": Key(
            ARRAY,
            None,
            "Of fixed_discrete: last step of each difficulty but the last.",
            unit="optimizer steps",
            items=Key(INTEGER, None, "A step."),
        ),
        "total_curriculum_step": Key(
            INTEGER,
            None,
            "Of the others: steps until the last difficulty.",
            unit="optimizer steps",
            exclusive_minimum=0,
        ),
        "difficulty_step": Key(
            INTEGER, None, "Of the others: difficulties are multiples of this.", exclusive_minimum=0
        ),
        "root_degree": Key(NUMBER, None, "Of fixed_root: degree of the root.", exclusive_minimum=0),
    },
    strict=False,
    meaning="Figures of the schedule.",
)

_METRIC = Block(
    keys={
        "min_difficulty": Key(INTEGER, None, "Difficulty at the start.", required=True),
        "max_difficulty": Key(INTEGER, None, "Difficulty at the end.", required=True),
        "schedule_type": Key(
            STRING,
            None,
            "Course between the two.",
            choices=("fixed_discrete", "fixed_linear", "fixed_root", "custom"),
            required=True,
        ),
        "schedule_config": Key(OBJECT, None, "Figures of the schedule; custom has none.", block=_CURRICULUM_SCHEDULE),
        "difficulty_type": Key(
            STRING,
            None,
            "Whether difficulties are values or percentiles.",
            choices=("value", "percentile"),
            required=True,
        ),
        "clustering_type": Key(
            STRING,
            None,
            "single_cluster: the dataset applies the difficulty itself; other text: samples are chosen by index files.",
            required=True,
        ),
        "index_to_sample_path": Key(STRING, None, "Index file: value to samples."),
        "index_to_metric_path": Key(STRING, None, "Index file: sample to value; for difficulties that are values."),
    },
    strict=False,
    meaning="One measure of difficulty.",
)

CURRICULUM_LEARNING = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Begin with easy samples."),
        "data_cluster_path": Key(STRING, None, "Folder for the clusters of samples."),
        "curriculum_metrics": Key(
            OBJECT,
            None,
            "Measures of difficulty by name; needed when enabled.",
            block=Block(
                keys={},
                strict=False,
                open=True,
                meaning="Measures by name.",
                others=Key(OBJECT, None, "A measure of difficulty, such as seqlen.", block=_METRIC),
            ),
        ),
    },
    strict=False,
    meaning="Curriculum learning.",
)

DYNAMIC_BATCHING = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Fill batches up to a number of tokens and scale the learning rate."),
        "metrics_path": Key(STRING, None, "Folder with the samples' lengths, from the data analyzer."),
        "lr_scaling_method": Key(
            STRING,
            "linear",
            "How the learning rate follows the batch.",
            choices=("linear", "sqrt", "none"),
        ),
        "min_batch_size": Key(INTEGER, 1, "Smallest batch; smaller ones are dropped.", unit="samples", minimum=1),
        "max_batch_size": Key(INTEGER, None, "Largest batch; unset, no bound.", unit="samples", minimum=1),
        "sequence_picking_order": Key(
            STRING,
            "dataloader",
            "Order of samples: as they come, at random, or by length.",
            choices=("dataloader", "random", "seqlen"),
        ),
        "max_tokens": Key(
            INTEGER, None, "Most tokens a batch, needed when enabled; longer samples are dropped.", "tokens", 1
        ),
        "verbose": Key(BOOLEAN, False, "Say what each batch holds."),
    },
    strict=False,
    meaning="Batches of a number of tokens.",
)

DATA_SAMPLING = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Turn data sampling on."),
        "num_epochs": Key(INTEGER, 1000, "Epochs the sampler plans for.", unit="epochs", minimum=1),
        "num_workers": Key(INTEGER, 0, "Worker processes of the data loader.", unit="processes", minimum=0),
        "pin_memory": Key(BOOLEAN, False, "Load into page-locked memory."),
        "curriculum_learning": Key(OBJECT, {}, "Curriculum learning.", block=CURRICULUM_LEARNING),
        "dynamic_batching": Key(OBJECT, {}, "Batches of a number of tokens.", block=DYNAMIC_BATCHING),
    },
    strict=False,
    meaning="What is drawn from the data, and in which order.",
)

_LTD_SCHEDULE = Block(
    keys={
        "min_value": Key(INTEGER, None, "Tokens kept at the start.", unit="tokens", required=True),
        "max_value": Key(INTEGER, None, "Tokens kept at the end: the whole sequence.", unit="tokens", required=True),
        "schedule_type": Key(STRING, None, "Course between the two.", choices=("fixed_linear",), required=True),
        "schedule_config": Key(
            OBJECT,
            None,
            "Figures of the schedule.",
            block=Block(
                keys={
                    "require_steps": Key(INTEGER, None, "Steps until all tokens are kept.", unit="optimizer steps"),
                    "seq_per_step": Key(INTEGER, None, "Lengths are multiples of this.", unit="tokens"),
                    "root_degree": Key(NUMBER, None, "Degree of a root; no schedule that exists uses it."),
                },
                strict=False,
                meaning="Figures of the schedule.",
            ),
            required=True,
        ),
    },
    strict=False,
    meaning="How many tokens the middle layers keep.",
)

RANDOM_LTD = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Let middle layers skip random tokens."),
        "total_layer_num": Key(INTEGER, None, "Layers of the model.", unit="layers"),
        "random_ltd_layer_num": Key(
            INTEGER, None, "Layers that skip; the length of random_ltd_layer_id.", unit="layers"
        ),
        "random_ltd_layer_id": Key(ARRAY, None, "Numbers of those layers.", items=Key(INTEGER, None, "A layer.")),
        "model_mask_name": Key(STRING + NULL, None, "Name of the layer's attention-mask argument."),
        "model_type": Key(STRING, None, "Kind of model.", choices=("decoder", "encoder")),
        "hidden_state_order": Key(
            STRING, None, "Order of the hidden states' dimensions.", choices=("batch_seq_dim", "seq_batch_dim")
        ),
        "random_ltd_schedule": Key(OBJECT, None, "How many tokens are kept.", block=_LTD_SCHEDULE),
        "global_batch_size": Key(INTEGER, None, "Set by the engine; leave it out.", unit="samples"),
        "micro_batch_size": Key(INTEGER, None, "Set by the engine; leave it out.", unit="samples"),
        "layer_token_lr_schedule": Key(
            OBJECT,
            {"enabled": False},
            "A learning rate by tokens seen; not written yet.",
            block=Block(
                keys={
                    "enabled": Key(BOOLEAN, False, "Must stay false: true raises."),
                    "total_layer_tokens": Key(INTEGER, None, "Named by DeepSpeed, read nowhere.", unit="tokens"),
                    "warmup_type": Key(STRING, None, "Named by DeepSpeed, read nowhere."),
                    "warmup_layer_tokens": Key(INTEGER, None, "Named by DeepSpeed, read nowhere.", unit="tokens"),
                },
                strict=False,
                meaning="A learning rate by tokens seen.",
            ),
        ),
    },
    strict=False,
    meaning="Random layer-token drop.",
)

DATA_EFFICIENCY = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Turn the data-efficiency library on."),
        "seed": Key(INTEGER, 1234, "Seed of its random choices."),
        "data_sampling": Key(OBJECT, {}, "What is drawn from the data.", block=DATA_SAMPLING),
        "data_routing": Key(
            OBJECT,
            {},
            "What layers see of a sample.",
            block=Block(
                keys={
                    "enabled": Key(BOOLEAN, False, "Turn data routing on."),
                    "random_ltd": Key(OBJECT, {}, "Random layer-token drop.", block=RANDOM_LTD),
                },
                strict=False,
                meaning="What layers see of a sample.",
            ),
        ),
    },
    strict=False,
    meaning="The data-efficiency library.",
)
