"""A W&B workspace and report that compare the attentions of one experiment: `python -m mimicry.reporting.workspace`.

Needs `pip install -e ".[cluster]"` and a W&B login; what was tracked offline must have been uploaded by `wandb sync`.
"""

import argparse
import sys
from typing import Any

ATTN, TASK, SEED = "cell.attn", "cell.task", "cell.seed"
# Headline numbers of `mimicry.reporting.outcome`, and what they are called.
HEADLINES = {
    "percent_of_teacher": "Kept of the teacher's score (%)",
    "score": "Score after the last stage (%, or perplexity)",
    "kl": "KL of its attention from softmax's (nats)",
    "entropy": "Entropy of its attention (nats)",
    "train_s": "Training time (s)",
}
CURVES = ("teach/loss", "distill/kl", "recover/loss", "train/loss")


def panels(report: Any) -> list[Any]:
    """The charts that both show.

    Args:
        report: the module `wandb_workspaces.reports.v2`.
    """
    group = report.Config(ATTN)
    bars = [
        report.BarPlot(title=title, metrics=[report.SummaryMetric(name)], groupby=group, groupby_aggfunc="mean")
        for name, title in HEADLINES.items()
    ]
    spread = report.ScatterPlot(
        title="Close attention, kept quality",
        x=report.SummaryMetric("kl"),
        y=report.SummaryMetric("percent_of_teacher"),
    )
    lines = [report.LinePlot(title=name, x="trainer/global_step", y=[name], groupby=group) for name in CURVES]
    maps = report.MediaBrowser(title="Attention maps", media_keys=["analysis/attention_maps"])
    return [*bars, spread, *lines, maps]


def build_report(entity: str, project: str, experiment: str) -> Any:
    """The report of one experiment, not saved yet."""
    from wandb_workspaces.reports import v2 as report

    runs = report.Runset(
        entity=entity,
        project=project,
        name=experiment,
        filters=f"Metric('Group') == '{experiment}'",
        groupby=[f"config.{ATTN}"],
    )
    grid = report.PanelGrid(runsets=[runs], panels=panels(report))
    intro = "Means over seeds and tasks of the runs in this experiment. Scores are comparable within one task only."
    blocks = [report.H1(f"Experiment {experiment}"), report.P(intro), grid]
    return report.Report(
        entity=entity,
        project=project,
        title=f"mimicry: {experiment}",
        description="Attentions compared.",
        blocks=blocks,
    )


def build_workspace(entity: str, project: str, experiment: str) -> Any:
    """The workspace of one experiment, not saved yet: its runs by attention, headline numbers as columns."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.reports import v2 as report

    charts = panels(report)
    headlines, rest = charts[: len(HEADLINES) + 1], charts[len(HEADLINES) + 1 :]
    columns = [f"config:{name}.value" for name in (ATTN, TASK, SEED)] + [f"summary:{name}" for name in HEADLINES]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"mimicry: {experiment}",
        sections=[
            ws.Section(name="Attentions compared", panels=headlines, is_open=True),
            ws.Section(name="Training and maps", panels=rest, is_open=False),
        ],
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step", max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == experiment],
            groupby=[ws.Config(ATTN)],
            pinned_columns=["run:displayName", *columns],
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    """Saves both to the W&B server one is logged in to, and prints where they are."""
    parser = argparse.ArgumentParser(prog="python -m mimicry.reporting.workspace", description=__doc__)
    parser.add_argument("experiment", help="id of an experiments file, which is the group of its runs")
    parser.add_argument("--entity", required=True, help="user or team the project belongs to")
    parser.add_argument("--project", default="mimicry")
    options = parser.parse_args(arguments)
    place = (options.entity, options.project, options.experiment)
    try:
        built = (build_workspace(*place), build_report(*place))
    except ImportError as error:
        parser.exit(1, f'error: {error}: pip install -e ".[cluster]"\n')
    for view in built:
        view.save()
        sys.stdout.write(f"{view.url}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
