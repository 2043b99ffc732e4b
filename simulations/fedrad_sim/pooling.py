"""All hospitals' cohorts as one: what no federation may do, and what it is compared with. Simulation only."""

from collections.abc import Sequence
from pathlib import Path

from fedrad_client.cohort.draft import new_generation, next_generation, publish
from fedrad_client.cohort.store import Manifest, open_cohort


def pool_cohorts(cohorts: Sequence[Path], out: Path) -> None:
    """Write one cohort of every image; each patient stays in the part that its own hospital's key drew."""
    opened = [open_cohort(path) for path in cohorts]
    first = opened[0].manifest
    with new_generation(out, height=first.height, width=first.width) as draft:
        entry = 0
        for cohort in opened:
            row = 0
            for part in cohort.pixels:
                for image in part:
                    values = tuple(None if value != value else int(value) for value in cohort.labels[row].tolist())
                    draft.add(cohort.records[row], image, values, entry=entry, series=None)
                    row, entry = row + 1, entry + 1
        kept = draft.settle()
        files = draft.write_files(first.labels)
        manifest = Manifest(
            **first.model_dump(exclude={"generation", "key", "n_files", "n_images", "n_patients", "counts", "files", "labels"}),
            labels=first.labels,
            generation=next_generation(out),
            key="pooled",
            n_files=entry,
            n_images=len(kept),
            n_patients=len({image.patient for image in kept}),
            files=files,
        )
        publish(draft, out, manifest)
