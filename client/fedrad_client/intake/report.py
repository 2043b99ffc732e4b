"""What a person is told of an ingest: how many, which series, why, and what to do. Counts and running numbers; all of it stays here."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedrad_client.intake.codes import ADVICE, CODES, Code
from fedrad_client.intake.ingest import Intake
from fedrad_client.intake.process import State

_SHOWN = 8  # numbers of series on a line


@dataclass(frozen=True)
class IngestReport:
    intake: Intake

    def facts(self) -> dict[str, Any]:
        done = self.intake
        return {
            "generation": done.generation,
            "changed": done.changed,
            "files": done.n_files,
            "known": done.n_known,
            "images": done.n_images,
            "patients": done.n_patients,
            "quarantined": dict(done.counts),
            "series": {code: list(numbers) for code, numbers in done.series.items()},
            "warnings": list(done.warnings),
        }

    def lines(self) -> list[str]:
        done = self.intake
        state = "new" if done.changed else "unchanged"
        rows = [
            f"cohort generation {done.generation} ({state}): {done.n_images} images of {done.n_patients} patients from {done.n_files} files"
        ]
        if done.n_known:
            rows.append(f"  {done.n_known} files were read before and not read again")
        rows += [_line(code, count, done.series.get(code, ())) for code, count in sorted(done.counts.items())]
        return rows + [f"  warning: {warning}" for warning in done.warnings]


def _line(code: Code, count: int, series: Iterable[int] = ()) -> str:
    """`  set aside      3  truncated (series #2, #5): ends before its pixels do; copy or export it again: it broke off`."""
    numbers = [f"#{number}" for number in series]
    where = f" (series {', '.join(numbers[:_SHOWN])}{', …' if len(numbers) > _SHOWN else ''})" if numbers else ""
    advice = f"; {ADVICE[code]}" if code in ADVICE else ""
    return f"  set aside  {count:>6}  {code}{where}: {CODES[code]}{advice}"


@dataclass(frozen=True)
class StatesReport:
    """Where all files stand that any ingest met, and how many lie in the inbox unread."""

    counts: Counter[tuple[State, Code | None]]
    received: int

    def facts(self) -> dict[str, Any]:
        states: Counter[str] = Counter({"received": self.received})
        for (state, _), count in self.counts.items():
            states[state] += count
        aside = {code: count for (state, code), count in self.counts.items() if state == "quarantined" and code}
        return {"format": "fedrad-states-1", "states": dict(states), "quarantined": aside}

    def lines(self) -> list[str]:
        facts = self.facts()
        rows = [f"{count:>8}  {state}" for state, count in facts["states"].items()]
        return rows + [_line(code, count) for code, count in sorted(facts["quarantined"].items())]
