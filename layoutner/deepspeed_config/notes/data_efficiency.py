"""The `data_efficiency` block: curriculum learning, batches by number of tokens, and random layer-token drop."""

from layoutner.deepspeed_config.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "data_efficiency": {
        "enabled": "Turn the data-efficiency library on.",
        "seed": "Random seed.",
        "data_sampling": "Which samples are used, and in which order.",
        "data_routing": "Which tokens of a sample each layer processes.",
    },
    "data_efficiency.data_sampling": {
        "enabled": "Turn data sampling on.",
        "num_epochs": Key("Number of epochs for which the sampler plans.", "epochs", minimum=1),
        "num_workers": Key("Worker processes of the data loader.", "processes", minimum=0),
        "pin_memory": "Load into page-locked memory.",
        "curriculum_learning": "Curriculum learning.",
        "dynamic_batching": "Batches by number of tokens.",
    },
    "data_efficiency.data_sampling.curriculum_learning": {
        "enabled": Key("Start with easy samples.", types=BOOLEAN, default=False),
        "data_cluster_path": Key("Folder for the clusters of samples.", types=STRING),
        "curriculum_metrics": "Measures of difficulty by name; required if enabled.",
    },
    "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics": {
        "*": "A measure of difficulty, such as seqlen.",
    },
    "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.*": {
        "min_difficulty": Key("Difficulty at the start.", types=INTEGER, required=True),
        "max_difficulty": Key("Difficulty at the end.", types=INTEGER, required=True),
        "schedule_type": Key(
            "Shape of the schedule between the two.",
            types=STRING,
            choices=("fixed_discrete", "fixed_linear", "fixed_root", "custom"),
            required=True,
        ),
        "schedule_config": "Parameters of the schedule; custom has none.",
        "difficulty_type": Key(
            "Whether difficulties are values or percentiles.",
            types=STRING,
            choices=("value", "percentile"),
            required=True,
        ),
        "clustering_type": Key(
            "single_cluster: the dataset applies the difficulty; any other text: index files select the samples.",
            types=STRING,
            required=True,
        ),
        "index_to_sample_path": Key("Index file: metric value -> samples.", types=STRING),
        "index_to_metric_path": Key("Index file: sample -> metric value; for difficulty_type value.", types=STRING),
    },
    "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.*.schedule_config": {
        "difficulty": Key(
            "For fixed_discrete: the difficulties, in order.",
            types=ARRAY,
            items=Key("A difficulty.", types=INTEGER + NUMBER),
        ),
        "max_step": Key(
            "For fixed_discrete: last step of each difficulty except the last one.",
            "optimizer steps",
            types=ARRAY,
            items=Key("A step.", types=INTEGER),
        ),
        "total_curriculum_step": Key(
            "For the others: steps until the maximum difficulty.", "optimizer steps", types=INTEGER, exclusive_minimum=0
        ),
        "difficulty_step": Key(
            "For the others: difficulties are multiples of this.", types=INTEGER, exclusive_minimum=0
        ),
        "root_degree": Key("For fixed_root: degree of the root.", types=NUMBER, exclusive_minimum=0),
    },
    "data_efficiency.data_sampling.dynamic_batching": {
        "enabled": "Fill batches up to a number of tokens and scale the learning rate.",
        "metrics_path": Key("Folder with the samples' lengths, from the data analyzer.", types=STRING),
        "lr_scaling_method": Key(
            "How the learning rate is scaled with the batch size.", choices=("linear", "sqrt", "none")
        ),
        "min_batch_size": Key("Minimum batch size; smaller batches are dropped.", "samples", minimum=1),
        "max_batch_size": Key("Maximum batch size; if unset, there is none.", "samples", types=INTEGER, minimum=1),
        "sequence_picking_order": Key(
            "Order of samples: as the data loader gives them, at random, or by length.",
            choices=("dataloader", "random", "seqlen"),
        ),
        "max_tokens": Key(
            "Maximum tokens per batch, required if enabled; longer samples are dropped.",
            "tokens",
            types=INTEGER,
            minimum=1,
        ),
        "verbose": "Log what each batch contains.",
    },
    "data_efficiency.data_routing": {
        "enabled": "Turn data routing on.",
        "random_ltd": "Random layer-token drop.",
    },
    "data_efficiency.data_routing.random_ltd": {
        "enabled": Key("Let the middle layers skip random tokens.", types=BOOLEAN, default=False),
        "total_layer_num": Key("Number of layers of the model.", "layers", types=INTEGER),
        "random_ltd_layer_num": Key(
            "Number of layers that skip tokens; the length of random_ltd_layer_id.", "layers", types=INTEGER
        ),
        "random_ltd_layer_id": Key("Indices of these layers.", types=ARRAY, items=Key("A layer.", types=INTEGER)),
        "model_mask_name": Key("Name of the layer's attention-mask argument.", types=STRING + NULL),
        "model_type": Key("Type of the model.", types=STRING, choices=("decoder", "encoder")),
        "hidden_state_order": Key(
            "Order of the hidden states' dimensions.", types=STRING, choices=("batch_seq_dim", "seq_batch_dim")
        ),
        "random_ltd_schedule": "How many tokens the middle layers keep.",
        "global_batch_size": Key("Set by the engine; leave it out.", "samples", types=INTEGER),
        "micro_batch_size": Key("Set by the engine; leave it out.", "samples", types=INTEGER),
        "layer_token_lr_schedule": Key(
            "Learning rate by number of tokens; not implemented.", types=OBJECT, default={"enabled": False}
        ),
    },
    "data_efficiency.data_routing.random_ltd.random_ltd_schedule": {
        "min_value": Key("Tokens kept at the start.", "tokens", types=INTEGER, required=True),
        "max_value": Key("Tokens kept at the end: the whole sequence.", "tokens", types=INTEGER, required=True),
        "schedule_type": Key(
            "Shape of the schedule between the two.", types=STRING, choices=("fixed_linear",), required=True
        ),
        "schedule_config": Key("Parameters of the schedule.", types=OBJECT, required=True),
    },
    "data_efficiency.data_routing.random_ltd.random_ltd_schedule.schedule_config": {
        "require_steps": Key("Steps until all tokens are kept.", "optimizer steps", types=INTEGER),
        "seq_per_step": Key("Lengths are multiples of this.", "tokens", types=INTEGER),
        "root_degree": Key("Degree of a root; no existing schedule uses it.", types=NUMBER),
    },
    "data_efficiency.data_routing.random_ltd.layer_token_lr_schedule": {
        "enabled": Key("Must be false: true raises an error.", types=BOOLEAN, default=False),
        "total_layer_tokens": Key("DeepSpeed defines this key but never reads it.", "tokens", types=INTEGER),
        "warmup_type": Key("DeepSpeed defines this key but never reads it.", types=STRING),
        "warmup_layer_tokens": Key("DeepSpeed defines this key but never reads it.", "tokens", types=INTEGER),
    },
}
