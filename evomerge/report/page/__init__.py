"""The report of a run as one page that needs nothing else: no network, no script, no model.

``page`` makes it from a ``Record`` alone, also of a search that runs or was killed, and of a stranger's.
"""

from __future__ import annotations

from evomerge import __version__
from evomerge.blas import one_thread
from evomerge.errors import InputError
from evomerge.record.record import Record
from evomerge.report.page.chart import standalone
from evomerge.report.page.costs import costs
from evomerge.report.page.course import course, course_picture
from evomerge.report.page.decisions import decisions
from evomerge.report.page.document import write
from evomerge.report.page.front import front
from evomerge.report.page.genes import genes
from evomerge.report.page.headline import headline, when
from evomerge.report.page.health import health
from evomerge.report.page.items import items
from evomerge.report.page.material import Material
from evomerge.report.page.provenance import provenance
from evomerge.report.page.result import forest_picture, result
from evomerge.report.page.tasks import tasks
from evomerge.report.page.weights import weights
from evomerge.report.page.why import why

_SECTIONS = (
    *(headline, result, course, front, tasks, weights, why, genes, items, costs, decisions, health),
    provenance,
)


@one_thread()
def page(record: Record, *, refresh: int | None = None) -> str:
    """The page as HTML.

    Args:
        record: of the run.
        refresh: seconds after which a browser loads it again, until the search is done; None is never.

    Raises:
        InputError: the record makes no sense.
    """
    material = Material(record)
    try:
        sections = [found for make in _SECTIONS if (found := make(material)) is not None]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{record.path}: its events are whole, and do not fit together ({type(error).__name__}: {error}); "
            "is it as evomerge wrote it?"
        ) from error
    foot = (
        f"Made by evomerge {__version__} from the journal of {record.folder}, as of "
        f"{when(record.newest)}. It loads nothing and runs nothing."
    )
    title = record.folder.resolve().name
    return write(title, sections, foot, refresh=None if material.done else refresh)


def picture(record: Record) -> str | None:
    """One small picture of a run as an SVG file: the winner's leads; before the end, the course of the search.

    Returns:
        None where nothing was scored yet.
    """
    material = Material(record)
    svg = forest_picture(material) or course_picture(material)
    return None if svg is None else standalone(svg)


def course_svg(record: Record) -> str | None:
    """The course of the search as an SVG file; None where no merge was scored yet."""
    svg = course_picture(Material(record))
    return None if svg is None else standalone(svg)
