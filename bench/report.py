#!/usr/bin/env python3
"""report.py DIR: what scripts/bench.sh left in DIR, as tables."""
import json, math, statistics, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import plot  # noqa: E402
from peerbench import print_tables  # noqa: E402


def summary(systems):
    """The geometric mean and the least of kmsfs's speeds relative to the reference."""
    speeds = plot.speeds(systems).get("kmsfs")
    if not speeds:
        return "kmsfs was not measured."
    mean = math.exp(statistics.fmean(map(math.log, speeds.values())))
    worst = min(speeds, key=speeds.get)
    title = {w[0]: w[1] for w in plot.WORKLOADS}[worst]
    return f"kmsfs against {plot.REFERENCE}: geometric mean {mean:.2f}, least {speeds[worst]:.2f} ({title})."


def limits(path):
    report = json.loads(path.read_text())
    rounds, size, files = report["rounds"], report["size_mib"], report["files"]
    print(f"{rounds} rounds, medians; large file {size} MiB, {files} small files; {'cold' if report['cold'] else 'WARM'} reads.\n")
    print("| job | unit | kmsfs | passthrough | backing | of passthrough | of backing | CPU seconds per round |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in report["jobs"]:
        rate = {name: statistics.median(place["rates"]) for name, place in row["places"].items()}
        cpu = statistics.median(row["places"]["kmsfs"]["cpu_seconds"])
        cells = [f"{rate[n]:.0f}" for n in ("kmsfs", "passthrough", "backing")]
        cells += [f"{rate['kmsfs'] / rate[n]:.2f}" for n in ("passthrough", "backing")]
        print(f"| {row['job']} | {row['unit']} | " + " | ".join(cells) + f" | {cpu:.2f} |")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = Path(sys.argv[1])
    peers = json.loads((directory / "peers.json").read_text())
    machine = peers["machine"]
    print(f"# Measured on {machine['cpus']} x {machine['cpu']}, Linux {machine['kernel']}\n")
    versions = {name: record.get("version", "") for systems in peers["results"].values() for name, record in systems.items()}
    print("Versions: " + "; ".join(f"{name}: {version}" for name, version in versions.items()) + ".\n")
    for backing, systems in peers["results"].items():
        print(f"On {backing}: {summary(systems)}\n")
    print_tables(peers, plot.REFERENCE)
    if (applications := directory / "applications.json").exists():
        print("\n## Applications")
        print_tables(json.loads(applications.read_text()), "plain")
    for name in ("tmpfs", "disk"):
        print(f"\n## Limits on {name}\n")
        limits(directory / f"limits-{name}.json")
    print("\n## Ciphers\n\n| AES-256-GCM by | seal MB/s | open MB/s | used |\n| --- | ---: | ---: | --- |")
    for line in json.loads((directory / "ciphers.json").read_text()):
        print(f"| {line['library']} | {line['seal'] / 1e6:.0f} | {line['open'] / 1e6:.0f} | {'yes' if line['used'] else ''} |")


if __name__ == "__main__":
    main()
