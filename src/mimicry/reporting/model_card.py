"""What a run's record says of its student, for the card beside it."""

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from mimicry.reporting.run_record import RunRecord
from mimicry.reporting.tables import conversion_markdown, conversion_title, state_rows

_ROUTE = "teacher: the softmax model; no train: swapped, nothing trained; distilled: maps trained; recovered: finetuned"


def measured_section(record: RunRecord) -> str:
    """Markdown: the table of states, the data they were measured on, and the config that gives them again."""
    title = conversion_title(record.attn, record.task, record.model, record.seed)
    table = conversion_markdown(title, state_rows(record))
    code = f"commit {record.commit or 'unknown'}{', with changes' if record.dirty else ''}"
    made_with = [f"{name} {version}" for name, version in record.versions.items() if name in ("torch", "transformers")]
    config = yaml.safe_dump(_public(record.config), sort_keys=False, allow_unicode=True)
    return "\n".join(
        [
            f"## Measured\n\n{table}\n{_ROUTE}.\n",
            f"## Data\n\n{_data(record.data)}\n",
            f"## Made with\n\n`python run.py` of mimicry ({', '.join([code, *made_with])}) and this config.\n",
            f"<details>\n<summary>Config</summary>\n\n```yaml\n{config}```\n\n</details>\n",
        ]
    )


def _data(data: dict[str, Any]) -> str:
    """Where the rows are from, how many there were, and their fingerprint."""
    lines = [f"{split.replace('_', ' ')}: {source}" for split, source in data["sources"].items()]
    lines.append(f"rows: {', '.join(f'{count:,} {split}' for split, count in data['rows'].items() if count)}")
    lines.append(f"fingerprint: `{data['fingerprint']}`")
    lines += [f"missing: {part}" for part in data.get("missing", ())]
    return "\n".join(f"- {line}" for line in lines)


def _public(value: Any) -> Any:
    """The config with absolute paths cut to their last part: where files lie is this machine's matter."""
    if isinstance(value, dict):
        return {name: _public(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_public(child) for child in value]
    if isinstance(value, str):
        path = next((kind(value) for kind in (PurePosixPath, PureWindowsPath) if kind(value).is_absolute()), None)
        return value if path is None else path.name
    return value
