"""`layoutner config ...`: recipes, settings and DeepSpeed configs, without a GPU. Imports torch only to read data."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner.console.arguments import Parser, add_command, add_settings, overrides, quiet
from layoutner.console.streams import print_file
from layoutner.errors import SettingsError
from layoutner.files.atomic import write_text
from layoutner.settings.recipes import describe_recipes, recipe_names, recipe_text
from layoutner.settings.tree import Settings, load

if TYPE_CHECKING:
    from layoutner.planning.batch_plan import BatchPlan
    from layoutner.planning.schedule import Schedule


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `config` and its subcommands."""
    config = commands.add_parser("config", help="recipes, settings and DeepSpeed configs")
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    add_command(actions, "list", _list, "list the shipped recipes")
    show = add_command(actions, "show", _show, "print a shipped recipe: a settings TOML to change and give to --config")
    show.add_argument("recipe", metavar="RECIPE", help=f"one of: {', '.join(recipe_names())}")

    render = add_command(actions, "render", _render, "print the DeepSpeed JSON of a run")
    add_settings(render)
    render.add_argument("--world-size", type=int, required=True, help="number of ranks (GPUs)")
    render.add_argument("--windows", type=int, help="number of training windows, instead of reading the data")

    plan = add_command(actions, "plan", _plan, "show a run's batch and schedule, and memory per rank by ZeRO stage")
    add_settings(plan)
    plan.add_argument("--world-size", type=int, required=True, help="number of ranks (GPUs)")
    plan.add_argument("--windows", type=int, help="number of training windows, instead of reading the data")
    plan.add_argument("--gpu-memory", help="memory per rank, such as 24GiB; shows the largest micro-batch that fits")
    plan.add_argument("--measure", action="store_true", help="time the network on this machine, and predict step times")
    plan.add_argument("--link", help="with --measure: bytes a second that a rank sends to another, such as 25GB")

    check = add_command(actions, "check", _check, "find what is wrong with any DeepSpeed JSON; exits 1 on errors")
    check.add_argument("file", help="DeepSpeed config, JSON or HJSON")
    check.add_argument("--world-size", type=int, help="number of ranks to check the batch sizes for")
    check.add_argument("--for", dest="framework", choices=["hf-trainer", "accelerate"], help='who replaces "auto"')
    check.add_argument("--format", default="text", choices=["text", "json", "github"], help="(default: text)")

    importing = add_command(
        actions, "import", _import, "turn any DeepSpeed JSON into settings and a preset, and say what changed"
    )
    importing.add_argument("file", help="DeepSpeed config, JSON or HJSON")
    importing.add_argument(
        "--world-size", type=int, help="number of ranks it was made for, if it gives no global batch size"
    )
    importing.add_argument("--out", type=Path, help="folder for settings.toml and preset.json; default: print them")

    migrate = add_command(
        actions,
        "migrate",
        _migrate,
        "turn a command line of run_seq_labeling.py into settings, and show what replaces each option",
    )
    migrate.add_argument("--gpus", type=int, help="number of GPUs the old process saw, if it ran without a launcher")
    migrate.add_argument(
        "line",
        nargs=argparse.REMAINDER,
        metavar="-- OLD COMMAND LINE",
        help="the old command line after --, or several commands in one quoted text; preprocess.py works too",
    )

    schema = add_command(actions, "schema", _schema, "print a JSON Schema, for editors that complete and check")
    schema.add_argument("of", choices=["settings", "deepspeed"], help="schema of the settings, or of a DeepSpeed JSON")


def _list(options: argparse.Namespace) -> None:
    print(describe_recipes())


def _show(options: argparse.Namespace) -> None:
    print_file(recipe_text(options.recipe))


def _render(options: argparse.Namespace) -> None:
    from layoutner.planning.batch_plan import describe as describe_batch
    from layoutner.planning.render import render
    from layoutner.planning.scaling import describe

    settings, batch, schedule = _arithmetic(options)
    print(json.dumps(render(settings, batch, schedule), indent=2))
    lines = [*describe_batch(batch, schedule.ramp), f"schedule: {schedule}", *schedule.notes]
    lines.append(f"optimizer: {describe(settings)}")
    print("\n".join(lines), file=sys.stderr)


def _plan(options: argparse.Namespace) -> None:
    from layoutner.planning.memory import parse_memory
    from layoutner.planning.memory_plan import Case, describe, describe_time
    from layoutner.planning.time_plan import parse_rate

    limit = None if options.gpu_memory is None else parse_memory(options.gpu_memory)
    if options.measure and options.link is None and options.world_size > 1:
        raise SettingsError(
            "--measure needs --link, the bytes a second that a rank sends to another: about 400GB by NVLink, 25GB by "
            "InfiniBand of 200 Gb/s, 1GB by Ethernet of 10 Gb/s or between CPU processes"
        )
    if options.link is not None and not options.measure:
        raise SettingsError("--link needs --measure, which predicts the time of a step")
    link = parse_rate(options.link or "1GB")
    settings, batch, schedule = _arithmetic(options)
    if settings.model.name_or_path is None:
        raise SettingsError("model.name_or_path is missing: give the model whose memory is planned")
    quiet()
    from layoutner.models.sizes import count_network

    network = count_network(settings, labels=13)
    print(describe(settings, batch, schedule, network, settings.data.max_length, limit))
    if options.measure:
        from layoutner.runs.measurement import measure

        measured = measure(settings, _ranks_up_to(options.world_size), labels=13)
        case = Case(settings, batch, schedule, network, settings.data.max_length)
        print(describe_time(case, measured, link))


def _ranks_up_to(world_size: int) -> list[int]:
    """1, 2, 4, 8, ... and the world size."""
    return [*(2**power for power in range((world_size - 1).bit_length())), world_size]


def _arithmetic(options: argparse.Namespace) -> "tuple[Settings, BatchPlan, Schedule]":
    """Settings, batch and schedule for --world-size ranks and --windows windows; default: count those of the data."""
    from layoutner.planning.batch_plan import plan_settings
    from layoutner.planning.schedule import plan_schedule

    settings = load(options.config, overrides(options))
    batch = plan_settings(settings, options.world_size)
    windows = options.windows
    if windows is not None and windows < 1:
        raise SettingsError(f"--windows {windows}: at least one window is needed")
    counts = settings.schedule.epochs is not None or settings.schedule.max_windows is not None
    if windows is None and counts and settings.data.train and settings.model.name_or_path:
        quiet()
        from layoutner.training.plan import cut_windows

        windows = len(cut_windows(settings)[2]["train"])
    sizes = settings.batch
    return settings, batch, plan_schedule(settings.schedule, sizes.global_batch_size, windows, sizes.ramp)


def _check(options: argparse.Namespace) -> None:
    from layoutner.deepspeed_config.check import check
    from layoutner.deepspeed_config.finding import ERROR, FORMATS
    from layoutner.deepspeed_config.hjson_source import SourceError

    if options.world_size is not None and options.world_size < 1:
        raise SettingsError(f"--world-size {options.world_size}: at least one rank is needed")
    try:
        findings = check(_text(options.file), options.world_size, options.framework)
    except SourceError as error:
        raise SettingsError(f"{options.file}: cannot be read: {error}") from None
    print(FORMATS[options.format](options.file, findings))
    if any(found.severity == ERROR for found in findings):
        sys.exit(1)


def _import(options: argparse.Namespace) -> None:
    from layoutner.migration.importing import import_config

    imported = import_config(_text(options.file), options.world_size)
    preset = None if imported.preset is None else json.dumps(imported.preset, indent=2) + "\n"
    settings = imported.toml(None if preset is None else str((options.out or Path()) / "preset.json"))
    if options.out is None:
        print_file(settings if preset is None else f"{settings}\n# preset.json:\n{preset}")
    else:
        files = {"settings.toml": settings} | ({} if preset is None else {"preset.json": preset})
        there = [name for name in files if (options.out / name).exists()]
        if there:
            raise SettingsError(f"--out {options.out}: holds {' and '.join(there)} already; give another folder")
        options.out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_text(options.out / name, text)
    for line in imported.report:
        became = f" -> {line.became}" if line.became else ""
        why = f": {line.why}" if line.why else ""
        print(f"{line.what:8}{line.path}{became}{why}", file=sys.stderr)


def _migrate(options: argparse.Namespace) -> None:
    from layoutner.migration.migrate import migrate

    words = options.line[1:] if options.line[:1] == ["--"] else options.line
    if not words:
        raise SettingsError("no old command line; give it after --, as in `layoutner config migrate -- python ...`")
    made = migrate(words, options.gpus)
    print_file(made.toml())
    for line in (*made.report, *made.notes):
        print(line, file=sys.stderr)


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from None


def _schema(options: argparse.Namespace) -> None:
    if options.of == "settings":
        schema = Settings.model_json_schema()
    else:
        from layoutner.deepspeed_config.json_schema import json_schema
        from layoutner.deepspeed_config.schema import installed_schema

        schema = json_schema(installed_schema(), auto=True)
    print(json.dumps(schema, indent=2))
