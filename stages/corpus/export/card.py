"""What lies beside an export's files, for `datasets` and for people."""

from collections.abc import Mapping
from typing import Any

from stages.corpus.export.forms import Form


def card(form: Form, counts: Mapping[str, Mapping[str, int]], about: Mapping[str, Mapping[str, Any]]) -> str:
    """What lies beside the files: which there are, for `datasets`, and for people what they hold and may be used for."""
    configs = [f"- config_name: {stage}\n  data_files: {stage}/*.parquet" for stage in counts]
    lines = [
        f"| {stage} | {source} | {rows:,} | {_told(about, source, 'origin')} | {_told(about, source, 'language')} "
        f"| {_told(about, source, 'licence')} |"
        for stage, own in counts.items()
        for source, rows in own.items()
    ]
    return "\n".join(
        [
            "---",
            "configs:",
            *configs,
            "---",
            "",
            "# Visual instructions, as Tandem renders them",
            "",
            f"Every row whose loss mask was proved, as the model is asked: `images`, and the conversation in `{form.column}`.",
            "The pictures stand before the first question. `source` and `row` name a row in the ledger.",
            "",
            "| tuning stage | source | rows | answers by | language | licence |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def _told(about: Mapping[str, Mapping[str, Any]], source: str, what: str) -> str:
    # A bar would end the table's cell, and a line its row.
    return " ".join(str(about.get(source, {}).get(what) or "not declared").replace("|", "\\|").split())
