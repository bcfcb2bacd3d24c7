"""What got slower since the published record of the benchmarks.

python tools/bench.py        reads the newest run of nbs/benchmarks.ipynb made here (`make bench`)

Ratios within one run are compared, never seconds. A run with a row whose rounds lie too far apart is
refused, since it could show anything; it ends with 1, a run that got slower with 2.
"""

import sys
from collections.abc import Mapping

import pandas as pd

from golf.lab.publish import published
from golf.lab.records import Record, newest_record

WIDE, SLOWER = 1.5, 0.9  # upper over lower quartile that is too much; share of the old ratio


def noisy(stages: Mapping[str, dict]) -> list[str]:
    """The rows whose upper quartile of the rounds is more than `WIDE` times the lower, with that number."""
    spread = {name: s["high"] / s["low"] for name, s in stages.items() if "speed" in s}
    return [f"{name} (x {wide:.1f})" for name, wide in spread.items() if wide > WIDE]


def compared(new: Mapping[str, dict], old: Mapping[str, dict]) -> pd.DataFrame:
    """Rows of both: ratio before and now, and `now / before`; `slower` where it fell beyond the spread."""
    names = [n for n in new if n in old and "speed" in new[n] and "speed" in old[n]]
    rows = [(old[n]["speed"], new[n]["speed"]) for n in names]
    table = pd.DataFrame(rows, index=names, columns=["before", "now"])
    table["change"] = table.now / table.before
    table["beyond"] = [new[n]["high"] < old[n]["low"] for n in names]
    return table.assign(slower=(table.change < SLOWER) & table.beyond)


def apart(new: Mapping, old: Mapping) -> str:
    """The parameters in which a run is not the record's, with both values; "" where there are none."""
    names = [name for name in new if name in old and new[name] != old[name]]
    return ", ".join(f"{name} {new[name]} (there {old[name]})" for name in names)


def settings(record: Record) -> dict:
    """The parameters of a record, and whose products it was made with."""
    return {**record.parameters, "products": record.device.get("products", "torch")}


def main() -> int:
    """0, 1 for a run that is refused, 2 for one that got slower."""
    run, best = newest_record("benchmarks"), published("benchmarks")
    if rows := noisy(run.stages):
        print(f"refused, rounds too far apart: {', '.join(rows)}; run it on a quiet machine")
        return 1
    if best is None:
        print("no published record to compare with")
        return 0
    quiet = {name: s for name, s in best.stages.items() if name not in _names(noisy(best.stages))}
    table = compared(run.stages, quiet)
    print(table[["before", "now", "change"]].round(2).to_string())
    if words := apart(settings(run), settings(best)):
        print(f"made with other parameters than the record, which may be why: {words}")
    slower = list(table.index[table.slower])
    print(f"slower than the published record: {', '.join(slower) or 'nothing'}")
    return 2 if slower else 0


def _names(rows: list[str]) -> set[str]:
    "The names in what `noisy` says."
    return {row.rpartition(" (x ")[0] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
