"""The report of a run as Markdown, for terminals; also of one that is not finished."""

from __future__ import annotations

from evomerge.blas import one_thread
from evomerge.record.record import Record
from evomerge.report.files import report_text, result_markdown
from evomerge.report.terminal import PHASES, budget_text
from evomerge.report.text import interval_text, markdown_text


@one_thread()
def report_markdown(record: Record) -> str:
    """What ``report.md`` of a finished search says; of another, how far it is and what is best so far."""
    history = record.history
    if record.table is not None and history.done:
        return report_text(record)
    lines = [
        f"not finished: {PHASES.get(history.phase or '', 'starting')}, {history.arrived} evaluations",
    ]
    if any(record.budget.values()):
        lines.append(f"before the shortlist: {budget_text(record.budget, record.spent)}")
    best, interval = history.best, record.best_interval
    if best is not None and interval is not None:
        origin = history.candidates[best.candidate].origin
        lines.append(
            f"best by search score, hence likely too good: #{best.candidate} ({origin}) {interval_text(interval)}"
        )
    lines += record.remarks
    text = "".join(f"* {markdown_text(line)}.\n" for line in lines)
    if record.table is not None:
        text += "\nBefore it went on, it ended with:\n\n" + result_markdown(record.table, [])
    return text
