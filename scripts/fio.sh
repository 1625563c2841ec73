#!/usr/bin/env bash
# fio.sh MNT [BACKING]: runs the job files of scripts/fio/ in MNT and in the backing filesystem, and prints one table.
#
#   MNT      a mounted volume (or any directory)
#   BACKING  a directory on the filesystem that holds the ciphertext (default: the source of the mount MNT)
#
# Environment: ROUNDS (3, medians are shown), SIZE (128m), RUNTIME (2 seconds a random job), JOBS (names, default all),
# JSON (a file for all values). Rounds of both places are interleaved. As root the page cache is dropped before each
# reading job; otherwise reads are warm, and the table says so.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -ge 1 ] && [ -d "$1" ] || die "usage: $0 MNT [BACKING]"
command -v fio > /dev/null || die "needs fio (apt-get install fio)"
command -v python3 > /dev/null || die "needs python3"
mnt=$(realpath "$1")
backing=${2:-$(findmnt -no SOURCE --mountpoint "$mnt" || true)}
[ -d "$backing" ] || die "cannot tell the backing directory of $mnt ('$backing'): name it, $0 MNT BACKING"
# Inside a ciphertext directory only kmsfs writes: the jobs run beside it.
[ ! -e "$backing/.kmsfs" ] || backing=$(dirname "$backing")
exec env FIO_DIR="$REPO/scripts/fio" python3 - "$mnt" "$backing" << 'PYTHON'
import json, os, re, shutil, statistics, subprocess, sys, tempfile

rounds = int(os.environ.get("ROUNDS", "3"))
env = dict(os.environ, SIZE=os.environ.get("SIZE", "128m"), RUNTIME=os.environ.get("RUNTIME", "2"))
order = "seq-write seq-read seq-write-direct seq-read-direct rand-read-d1 rand-read-d16 rand-write-d1 rand-write-d16 sync-write small-files".split()
jobs = os.environ.get("JOBS", " ".join(order)).split()
root = os.geteuid() == 0
places = {"mount": sys.argv[1], "backing": sys.argv[2]}
work = {n: tempfile.mkdtemp(prefix="kmsfs-fio.", dir=d) for n, d in places.items()}


def run(place, job):
    """-> (value, unit): MB/s for large blocks, operations a second for small ones, or the error."""
    path = f"{os.environ['FIO_DIR']}/{job}.fio"
    d = work[place]
    text = open(path).read()
    if job == "small-files":
        shutil.rmtree(f"{d}/small", ignore_errors=True)
        os.mkdir(f"{d}/small")
    elif not re.search(r"^rw=write", text, re.M) and not os.path.exists(f"{d}/fio.dat"):
        run(place, "seq-write")
    os.sync()
    if root:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")
    p = subprocess.run(["fio", f"--directory={d}", "--output-format=json", path], capture_output=True, text=True, env=env)
    if p.returncode:
        return None, (p.stderr.strip().splitlines() or ["failed"])[-1][:60]
    j = json.loads(p.stdout[p.stdout.index("{"):])["jobs"][0]
    if job == "small-files":
        return 2000 / max(j["job_runtime"] / 1000, 1e-3), "files/s"
    side = j["read"] if j["read"]["io_bytes"] else j["write"]
    # End to end, fsync included: fio's own rate of a write leaves the last fsync out.
    seconds = (j["job_runtime"] if side is j["write"] else side["runtime"]) / 1000
    if "bs=1M" in text:
        return side["io_bytes"] / seconds / 1e6, "MB/s"
    return side["total_ios"] / seconds, "IOPS"


values = {p: {j: [] for j in jobs} for p in places}
units, errors = {}, []
try:
    for r in range(rounds):
        for job in jobs:
            for place in (list(places) if r % 2 == 0 else list(places)[::-1]):
                v, unit = run(place, job)
                if v is None:
                    errors.append(f"{place} {job}: {unit}")
                else:
                    values[place][job].append(v)
                    units[job] = unit
finally:
    for d in work.values():
        shutil.rmtree(d, ignore_errors=True)

print(f"{places['mount']} beside {places['backing']}: {rounds} rounds, medians, size {env['SIZE']}, {'caches dropped' if root else 'WARM caches (not root)'}\n")
print("| job | unit | mount | backing | mount / backing |\n| --- | --- | ---: | ---: | ---: |")
for job in jobs:
    m, b = (statistics.median(values[p][job]) if values[p][job] else None for p in places)
    show = lambda v: "-" if v is None else f"{v:.0f}" if v >= 100 else f"{v:.1f}"
    print(f"| {job} | {units.get(job, '')} | {show(m)} | {show(b)} | {f'{m / b:.2f}' if m and b else '-'} |")
for e in dict.fromkeys(errors):
    print(f"failed: {e}")
if os.environ.get("JSON"):
    with open(os.environ["JSON"], "w") as f:
        json.dump({"kernel": os.uname().release, "cpus": os.cpu_count(), "rounds": rounds, "size": env["SIZE"], "units": units, "values": values}, f, indent=1)
sys.exit(1 if errors else 0)
PYTHON
