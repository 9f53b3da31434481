"""Where all of this comes from: models by digest, versions, seed, splits, looks, and the run's own file."""

from __future__ import annotations

from evomerge import config
from evomerge.report.page.headline import when
from evomerge.report.page.material import Material
from evomerge.report.page.parts import Block, Facts, Grid, Listing, Section


def provenance(material: Material) -> Section:
    """The section."""
    head, record = material.head, material.record
    facts = [
        ("run", head.digest),
        ("begun", when(head.time)),
        ("last event", when(material.record.newest)),
        ("seed", str(head.template.get("seed", 0))),
        ("merged as, scored as", f"{head.template.get('dtype', 'bfloat16')}, {head.scoring}"),
        ("optimizer's population", str(head.population)),
        ("genes", str(len(head.dims))),
        ("splits", head.splits.digest),
        ("format of the journal", str(head.format)),
        ("libraries", ", ".join(f"{name} {version}" for name, version in head.versions.items())),
    ]
    if record.end is not None:
        facts.append(("looks at the report's items", record.end.looks))
    models = [(name, model.ref, model.sha256) for name, model in head.models.items()]
    blocks: list[Block] = [
        Facts(facts),
        Grid.of(
            "Models", ("name", "as it was called", "sha256 of its weights"), models, texts=(1, 2)
        ),
        _objectives(material),
        Grid.of(
            "Items of each split",
            ("task", *head.splits.items),
            [
                (
                    scorer,
                    *(f"{len(items.get(scorer, ())):,}" for items in head.splits.items.values()),
                )
                for scorer in head.scorers
            ],
        ),
        Grid.of(
            "Tasks",
            ("task", "fingerprint"),
            [(name, line.sha256) for name, line in head.scorers.items()],
            texts=(1,),
            folded=True,
        ),
        Listing("The run as it was asked for", config.dump(head.content)),
    ]
    return Section("provenance", "Provenance", "", blocks)


def _objectives(material: Material) -> Grid:
    rows = [
        (
            o.name,
            f"{o.how} of {', '.join(o.of)}" if o.of else o.scorer,
            o.metric,
            "more" if o.maximize else "less",
            f"{o.weight:g}",
            str(o.floor) if o.floor else "",
        )
        for o in material.record.objectives
    ]
    columns = ("objective", "task", "metric", "better is", "weight", "floor")
    caption = f"Objectives, combined by {material.head.combine}"
    return Grid.of(caption, columns, rows, texts=(1, 2, 3, 5))
