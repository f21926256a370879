"""`make audit`: are there known vulnerabilities in the versions that constraints.txt names?

pip-audit asks the vulnerability service of the Python Package Index, or with AUDIT_SERVICE=osv that of osv.dev. It is
no dependency: uv keeps it in an environment of its own.

Exit status: 0 where every version was looked up and none is known to be vulnerable; 1 where one is; 2 where not all
could be looked up, which is no pass.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "constraints.txt"
NOT_DONE = "audit: not done: "


def main() -> int:
    service = os.environ.get("AUDIT_SERVICE", "pypi")
    pins = [line for line in PINS.read_text(encoding="utf-8").splitlines() if line]
    done = subprocess.run(_command(service), capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        print(f"{NOT_DONE}pip-audit or its service ({service}) cannot be reached: {said:.160}")
        return 2
    text, status = judged(found, len(pins), service)
    print(text)
    return status


def _command(service: str) -> list[str]:
    uv = str(Path(sys.executable).with_name("uv"))
    run = [uv, "tool", "run", "--quiet", "--python", sys.executable, "--constraints", str(PINS), "pip-audit"]
    # The pins name everything that is installed, so nothing is to be resolved, and no package is downloaded.
    what = ["--requirement", str(PINS), "--no-deps", "--disable-pip"]
    how = ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", "--timeout", "20"]
    return [*run, *what, *how]


def judged(found: list[dict[str, Any]], pins: int, service: str) -> tuple[str, int]:
    """What is printed, and the exit status, of pip-audit's list of packages."""
    unknown = [entry["name"] for entry in found if "skip_reason" in entry]
    bad = [
        f"{entry['name']} {entry['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'none'}"
        for entry in found
        for fault in entry.get("vulns", ())
    ]
    looked_up = len(found) - len(unknown)
    if not looked_up:
        return f"{NOT_DONE}{service} knows none of {pins} versions; a mirror of the index may not offer the service", 2
    lines = [*bad, f"audit: {looked_up} of {pins} versions looked up ({service}), {len(bad)} known vulnerabilities"]
    if looked_up < pins:
        names = f"{', '.join(unknown[:10])}{' …' if len(unknown) > 10 else ''}"
        lines.append(f"{NOT_DONE}{pins - looked_up} versions are unknown to {service}: {names}")
    return "\n".join(lines), 1 if bad else 2 if looked_up < pins else 0


if __name__ == "__main__":
    sys.exit(main())
