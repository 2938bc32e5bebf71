"""The `data_efficiency` block: curriculum, batches of a number of tokens, and random layer-token drop."""

from layoutner.deepspeed_config.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "data_efficiency": {
        "enabled": "Turn the data-efficiency library on.",
        "seed": "Seed of its random choices.",
        "data_sampling": "What is drawn from the data, and in which order.",
        "data_routing": "What layers see of a sample.",
    },
    "data_efficiency.data_sampling": {
        "enabled": "Turn data sampling on.",
        "num_epochs": Key("Epochs the sampler plans for.", "epochs", minimum=1),
        "num_workers": Key("Worker processes of the data loader.", "processes", minimum=0),
        "pin_memory": "Load into page-locked memory.",
        "curriculum_learning": "Curriculum learning.",
        "dynamic_batching": "Batches of a number of tokens.",
    },
    "data_efficiency.data_sampling.curriculum_learning": {
        "enabled": Key("Begin with easy samples.", types=BOOLEAN, default=False),
        "data_cluster_path": Key("Folder for the clusters of samples.", types=STRING),
        "curriculum_metrics": "Measures of difficulty by name; needed when enabled.",
    },
    "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics": {
        "*": "A measure of difficulty, such as seqlen.",
    },
    "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.*": {
        "min_difficulty": Key("Difficulty at the start.", types=INTEGER, required=True),
        "max_difficulty": Key("Difficulty at the end.", types=INTEGER, required=True),
        "schedule_type": Key(
            "Course between the two.",
            types=STRING,
            choices=("fixed_discrete", "fixed_linear", "fixed_root", "custom"),
            required=True,
        ),
        "schedule_config": "Figures of the schedule; custom has none.",
        "difficulty_type": Key(
            "Whether difficulties are values or percentiles.",
            types=STRING,
            choices=("value", "percentile"),
            required=True,
        ),
        "clustering_type": Key(
            "single_cluster: the dataset applies the difficulty itself; other text: samples are chosen by index files.",
            types=STRING,
            required=True,
        ),
        "index_to_sample_path": Key("Index file: value to samples.", types=STRING),
        "index_to_metric_path": Key("Index file: sample to value; for difficulties that are values.", types=STRING),
    },
    "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.*.schedule_config": {
        "difficulty": Key(
            "Of fixed_discrete: the difficulties in turn.",
            types=ARRAY,
            items=Key("A difficulty.", types=INTEGER + NUMBER),
        ),
        "max_step": Key(
            "Of fixed_discrete: last step of each difficulty but the last.",
            "optimizer steps",
            types=ARRAY,
            items=Key("A step.", types=INTEGER),
        ),
        "total_curriculum_step": Key(
            "Of the others: steps until the last difficulty.", "optimizer steps", types=INTEGER, exclusive_minimum=0
        ),
        "difficulty_step": Key(
            "Of the others: difficulties are multiples of this.", types=INTEGER, exclusive_minimum=0
        ),
        "root_degree": Key("Of fixed_root: degree of the root.", types=NUMBER, exclusive_minimum=0),
    },
    "data_efficiency.data_sampling.dynamic_batching": {
        "enabled": "Fill batches up to a number of tokens and scale the learning rate.",
        "metrics_path": Key("Folder with the samples' lengths, from the data analyzer.", types=STRING),
        "lr_scaling_method": Key("How the learning rate follows the batch.", choices=("linear", "sqrt", "none")),
        "min_batch_size": Key("Smallest batch; smaller ones are dropped.", "samples", minimum=1),
        "max_batch_size": Key("Largest batch; unset, no bound.", "samples", types=INTEGER, minimum=1),
        "sequence_picking_order": Key(
            "Order of samples: as they come, at random, or by length.", choices=("dataloader", "random", "seqlen")
        ),
        "max_tokens": Key(
            "Most tokens a batch, needed when enabled; longer samples are dropped.", "tokens", types=INTEGER, minimum=1
        ),
        "verbose": "Say what each batch holds.",
    },
    "data_efficiency.data_routing": {
        "enabled": "Turn data routing on.",
        "random_ltd": "Random layer-token drop.",
    },
    "data_efficiency.data_routing.random_ltd": {
        "enabled": Key("Let middle layers skip random tokens.", types=BOOLEAN, default=False),
        "total_layer_num": Key("Layers of the model.", "layers", types=INTEGER),
        "random_ltd_layer_num": Key("Layers that skip; the length of random_ltd_layer_id.", "layers", types=INTEGER),
        "random_ltd_layer_id": Key("Numbers of those layers.", types=ARRAY, items=Key("A layer.", types=INTEGER)),
        "model_mask_name": Key("Name of the layer's attention-mask argument.", types=STRING + NULL),
        "model_type": Key("Kind of model.", types=STRING, choices=("decoder", "encoder")),
        "hidden_state_order": Key(
            "Order of the hidden states' dimensions.", types=STRING, choices=("batch_seq_dim", "seq_batch_dim")
        ),
        "random_ltd_schedule": "How many tokens the middle layers keep.",
        "global_batch_size": Key("Set by the engine; leave it out.", "samples", types=INTEGER),
        "micro_batch_size": Key("Set by the engine; leave it out.", "samples", types=INTEGER),
        "layer_token_lr_schedule": Key(
            "A learning rate by tokens seen; not written yet.", types=OBJECT, default={"enabled": False}
        ),
    },
    "data_efficiency.data_routing.random_ltd.random_ltd_schedule": {
        "min_value": Key("Tokens kept at the start.", "tokens", types=INTEGER, required=True),
        "max_value": Key("Tokens kept at the end: the whole sequence.", "tokens", types=INTEGER, required=True),
        "schedule_type": Key("Course between the two.", types=STRING, choices=("fixed_linear",), required=True),
        "schedule_config": Key("Figures of the schedule.", types=OBJECT, required=True),
    },
    "data_efficiency.data_routing.random_ltd.random_ltd_schedule.schedule_config": {
        "require_steps": Key("Steps until all tokens are kept.", "optimizer steps", types=INTEGER),
        "seq_per_step": Key("Lengths are multiples of this.", "tokens", types=INTEGER),
        "root_degree": Key("Degree of a root; no schedule that exists uses it.", types=NUMBER),
    },
    "data_efficiency.data_routing.random_ltd.layer_token_lr_schedule": {
        "enabled": Key("Must stay false: true raises.", types=BOOLEAN, default=False),
        "total_layer_tokens": Key("Named by DeepSpeed, read nowhere.", "tokens", types=INTEGER),
        "warmup_type": Key("Named by DeepSpeed, read nowhere.", types=STRING),
        "warmup_layer_tokens": Key("Named by DeepSpeed, read nowhere.", "tokens", types=INTEGER),
    },
}
