#!/usr/bin/env python3
"""plot.py RESULT.json OUT: pictures of a peer benchmark, OUT-light.svg and OUT-dark.svg.

Each workload is a row, each system a dot at its speed relative to a reference (gocryptfs) on a logarithmic axis; the median of all
rounds counts. With several backings in RESULT.json each gets a panel of its own.
"""
import html, json, math, statistics, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peerbench import APPLICATIONS, WORKLOADS as USUAL  # noqa: E402

WORKLOADS = USUAL + APPLICATIONS

REFERENCE = "gocryptfs"
THEMES = {
    "light": {"background": "#ffffff", "text": "#1f2328", "faint": "#59636e", "grid": "#d1d9e0"},
    "dark": {"background": "#0d1117", "text": "#f0f6fc", "faint": "#9198a1", "grid": "#3d444d"},
}
# Legible on both backgrounds and apart for the colour-blind (Okabe and Ito); kmsfs is a filled dot, the others are rings.
COLOURS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"]
LEFT, WIDTH, ROW, TOP, RIGHT = 230, 640, 24, 64, 30


def medians(systems):
    """-> {system: {workload: median}} of what succeeded in most rounds."""
    out = {}
    for name, record in systems.items():
        for workload, values in record["work"].items():
            numbers = [v for v in values if isinstance(v, (int, float)) and v > 0]
            if len(numbers) * 2 > len(values):
                out.setdefault(name, {})[workload] = statistics.median(numbers)
    return out


def speeds(systems):
    """-> {system: {workload: speed relative to the reference}}."""
    found = medians(systems)
    reference = found.get(REFERENCE) or sys.exit(f"plot.py: {REFERENCE} was not measured")
    larger_is_better = {w[0]: w[3] for w in WORKLOADS}
    return {
        name: {w: (v / reference[w] if larger_is_better[w] else reference[w] / v) for w, v in of.items() if w in reference}
        for name, of in found.items()
        if name != REFERENCE
    }


def picture(backings, machine, theme):
    t = THEMES[theme]
    panels = [(backing, speeds(systems)) for backing, systems in backings.items()]
    names = sorted({n for _, of in panels for n in of}, key=lambda n: (n != "kmsfs", n != "kmsfs-uring", n))
    colour = {n: COLOURS[i % len(COLOURS)] for i, n in enumerate(names)}
    values = [v for _, of in panels for ws in of.values() for v in ws.values()]
    low, high = min(0.5, *values) / 1.15, max(2, *values) * 1.15
    x = lambda v: LEFT + WIDTH * (math.log(v) - math.log(low)) / (math.log(high) - math.log(low))
    ticks = [v for v in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= v <= high]
    body, y = [], TOP
    text = lambda tx, ty, s, fill=t["text"], more="": body.append(f'<text x="{tx:.1f}" y="{ty:.1f}" fill="{fill}" {more}>{html.escape(s)}</text>')
    for i, name in enumerate(names):
        at = LEFT + i * 110
        body.append(dot(at, 38, name, colour[name], t))
        text(at + 10, 42, name)
    for backing, of in panels:
        workloads = [w for w in WORKLOADS if any(w[0] in ws for ws in of.values())]
        text(12, y + 4, f"on {backing}", more='font-weight="bold"')
        bottom = y + ROW * (len(workloads) + 0.5)
        for v in ticks:
            strong = v == 1
            body.append(f'<line x1="{x(v):.1f}" y1="{y - 4}" x2="{x(v):.1f}" y2="{bottom:.1f}" stroke="{t["faint"] if strong else t["grid"]}" stroke-width="{1.5 if strong else 1}"/>')
            text(x(v), bottom + 14, f"{v:g}", t["faint"], 'text-anchor="middle"')
        for i, (key, title, *_rest) in enumerate(workloads):
            at = y + ROW * (i + 0.9)
            text(LEFT - 12, at + 4, title, more='text-anchor="end"')
            body.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{LEFT + WIDTH}" y2="{at:.1f}" stroke="{t["grid"]}" stroke-dasharray="2 3"/>')
            for name in reversed(names):
                if key in of.get(name, {}):
                    body.append(dot(x(of[name][key]), at, name, colour[name], t, f"{name}: {of[name][key]:.2f}"))
        y = bottom + 46
    text(12, y - 8, f"Speed, {REFERENCE} = 1, logarithmic: further right is faster.", t["faint"])
    text(12, y + 10, machine, t["faint"])
    y += 24
    total = LEFT + WIDTH + RIGHT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {y:.0f}" width="{total}" height="{y:.0f}" font-family="sans-serif" font-size="13" role="img"><title>Speed of encrypting filesystems relative to {REFERENCE}</title><rect width="100%" height="100%" fill="{t["background"]}"/>'
    return head + "\n".join(body) + "</svg>\n"


def dot(cx, cy, name, colour, t, title=""):
    own = name.startswith("kmsfs")
    fill = colour if own else t["background"]
    label = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{6 if own else 4.5}" fill="{fill}" stroke="{colour}" stroke-width="2">{label}</circle>'


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    result = json.loads(Path(sys.argv[1]).read_text())
    machine = f"{result['machine']['cpus']} x {result['machine']['cpu']}, Linux {result['machine']['kernel']}"
    for theme in THEMES:
        path = Path(f"{sys.argv[2]}-{theme}.svg")
        path.write_text(picture(result["results"], machine, theme))
        print(path)


if __name__ == "__main__":
    main()
