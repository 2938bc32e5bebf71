"""The charts of a run, by section: the saved view of a Weights & Biases project, and TensorBoard's custom scalars."""

import os
import re
from dataclasses import dataclass
from typing import Any

from layoutner.errors import LayoutnerError, SettingsError, first_line
from layoutner.settings.tracking import WandbSettings

VIEW = "layoutner"  # the view's name and, in its address, nw=layoutner


@dataclass(frozen=True)
class Panel:
    """A chart over the optimizer steps."""

    title: str
    metrics: tuple[str, ...] = ()
    regex: str | None = None  # instead: every metric that this matches
    log_y: bool = False

    @property
    def patterns(self) -> list[str]:
        """Regular expressions of the names of its metrics."""
        return [self.regex] if self.regex else [f"^{re.escape(name)}$" for name in self.metrics]


# Section -> its charts, in order. tests/tracking/test_dashboard.py checks that each metric is one that a run logs.
SECTIONS: dict[str, tuple[Panel, ...]] = {
    "quality": (
        Panel("F1", ("eval/f1", "best/f1")),
        Panel("precision and recall", ("eval/precision", "eval/recall")),
        Panel("test F1", ("test/f1",)),
    ),
    "loss": (Panel("training loss", ("train/loss", "train/mean_loss")), Panel("eval loss", ("eval/loss",))),
    "learning rate and loss scale": (
        Panel("learning rate", ("train/lr",)),
        Panel("loss scale", ("train/loss_scale",), log_y=True),
        Panel("skipped steps", ("train/skipped_steps",)),
    ),
    "gradients and noise scale": (
        Panel("gradient norm", ("train/grad_norm",), log_y=True),
        Panel("noise scale in windows", ("gradient/noise_scale_windows",), log_y=True),
        Panel("gradient norm by layer", regex="^gradient_norm/.+$", log_y=True),
        Panel("update ratio by layer", regex="^update_ratio/.+$", log_y=True),
    ),
    "throughput and goodput": (
        Panel("tokens/s", ("throughput/tokens_per_s",)),
        Panel("share of the measured peak", ("throughput/mfu",)),
        Panel("seconds per step", ("time/step_s",)),
        Panel("goodput: shares of the time", ("share/forward", "share/backward", "share/optimizer")),
        Panel("all shares of the time", regex="^share/.+$"),
    ),
    "memory": (Panel("peak memory in GiB", ("memory/peak_GiB",)),),
    "entities": (
        Panel("F1 by entity type", regex="^eval/by_entity/.+/f1$"),
        Panel("test F1 by entity type", regex="^test/by_entity/.+/f1$"),
    ),
}


# Tables of the last section; see `wandb_tables`. TensorBoard does not have them.
TABLES = ("errors/kinds", "errors/confusion", "errors/pages")


def tensorboard_layout() -> dict[str, dict[str, list[Any]]]:
    """The sections as `SummaryWriter.add_custom_scalars` takes them."""
    return {
        section: {panel.title: ["Multiline", panel.patterns] for panel in panels}
        for section, panels in SECTIONS.items()
    }


def workspace(entity: str, project: str) -> Any:
    """The sections as a `wandb_workspaces.workspaces.Workspace` that is not saved yet.

    Raises:
        SettingsError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise SettingsError(
            f"layoutner dashboard: {first_line(error)}; `pip install 'layoutner[dashboard]'` installs it"
        ) from None
    sections = [
        workspaces.Section(
            name=name,
            is_open=True,
            panels=[
                reports.LinePlot(
                    title=panel.title,
                    x="Step",
                    y=list(panel.metrics),
                    metric_regex=panel.regex,
                    log_y=panel.log_y or None,
                )
                for panel in panels
            ],
        )
        for name, panels in SECTIONS.items()
    ]
    tables = [reports.WeavePanelSummaryTable(table_name=name) for name in TABLES]
    sections.append(workspaces.Section(name="pages", is_open=True, panels=tables))
    return workspaces.Workspace(entity=entity, project=project, name=VIEW, sections=sections)


def save_dashboard(settings: WandbSettings) -> str:
    """Create the view of the project, or replace what it shows.

    Returns:
        The address of the view.

    Raises:
        SettingsError: wandb-workspaces is missing, nobody is logged in, or the entity is unknown.
        LayoutnerError: the server does not answer, or refuses.
    """
    import wandb

    entity = settings.entity or os.environ.get("WANDB_ENTITY")
    try:
        made = workspace(entity or "", settings.project)  # says first that the package is missing
        if entity is None:
            entity = wandb.Api().default_entity
            if not entity:
                raise SettingsError("wandb.entity is missing: give --wandb.entity, or log in with `wandb login`")
            made = workspace(entity, settings.project)
        name = f"nw-{VIEW}-v"  # as the library names views
        made._internal_name, made._internal_id = name, _id_of(wandb.Api(), entity, settings.project, name)
        made.save()
        return str(made.url)
    except LayoutnerError:
        raise
    except wandb.errors.UsageError as error:
        raise SettingsError(f"layoutner dashboard: {first_line(error)}; log in with `wandb login`") from None
    except Exception as error:
        raise LayoutnerError(
            f"wandb.project = {settings.project}, entity {entity}: the view was not saved: {first_line(error)}"
        ) from None


def _id_of(api: Any, entity: str, project: str, name: str) -> str:
    """The id of a view, "" if the project has none of this name.

    Raises:
        SettingsError: there is no such project.
    """
    from wandb_workspaces._graphql import execute_graphql

    query = """query View($entity: String, $project: String, $view: String) {
        project(name: $project, entityName: $entity) {
            allViews(viewType: "project-view", viewName: $view) { edges { node { id } } }
        }
    }"""
    found = execute_graphql(api, query, {"entity": entity, "project": project, "view": name}).get("project")
    if found is None:
        raise SettingsError(
            f"wandb.project = {project}: {entity} has no such project: the first run with wandb.mode = online makes it"
        )
    edges = found["allViews"]["edges"]
    return str(edges[0]["node"]["id"]) if edges else ""
