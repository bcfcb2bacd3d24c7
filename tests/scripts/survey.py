"""A table of every kind of `kinds.py`, cheat and twin: `python tests/scripts/survey.py [LEVEL] [KIND ...]`."""

import sys
import tempfile
from pathlib import Path

import kinds

from golf.auditor.running import audit_script

level, names = (sys.argv[1:] or ["quick"])[0], sys.argv[2:] or [*kinds.KINDS]
print("| kind | script | broken | undecided or not tested | minutes |\n|---|---|---|---|---|")
with tempfile.TemporaryDirectory() as folder:
    for name in names:
        for cheat in (True, False):
            path = kinds.write(Path(folder) / "train_gpt.py", name, cheat)
            report = audit_script(path, level, run=True)
            rest = [
                f"{n}: {f.evidence}"
                for n, f in report.conditions.items()
                if f.verdict in ("UNSURE", "NOT RUN")
            ]
            kind = f"breaks {kinds.KINDS[name][0]}" if cheat else "twin"
            cells = [
                name,
                kind,
                ", ".join(report.failed),
                "; ".join(rest) + report.error,
                f"{report.seconds / 60:.1f}",
            ]
            print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |", flush=True)
