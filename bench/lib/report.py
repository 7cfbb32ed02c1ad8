# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians with spread, as tables for people, as JSON, and as plots."""
import itertools
import json
import os
import shutil
import statistics
import subprocess

from .rows import LESS

COLUMNS = 7 # of subjects side by side: what fits 132 characters
WIDTH = 13
SERIES_WIDTH = 30
LIMITS = [("vems-uring", "null-uring"), ("vems-dev", "null-dev"), ("vems-uring", "ext4"), ("vems-dev", "ext4"), ("vems-uring", "raw"),
          ("vems-dev", "raw")]
COLOURS = {"tmpfs": "#999999", "null-uring": "#9ecae1", "vems-uring": "#08519c", "null-dev": "#fdae6b", "vems-dev": "#d94801",
           "raw": "#000000", "ext4": "#31a354", "xfs": "#a1d99b", "fuse2fs": "#756bb1", "mergerfs": "#bcbddc", "zfs-fuse": "#fb9a99"}


def middle(values):
    return statistics.median(values)


def spread(values):
    """Half of what lies between the smallest and the largest, in percent of the median."""
    return (max(values) - min(values)) / 2 / middle(values) * 100 if middle(values) else 0


def short(value):
    """Three digits that count."""
    if value < 9999.5:
        return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
    return f"{value / 1e3:.3g}k" if value < 999.5e3 else f"{value / 1e6:.3g}M" if value < 999.5e6 else f"{value / 1e9:.3g}G"


def ratio(row, subject, limit):
    """How many times as fast; None if one of the two is not there."""
    if subject not in row.values or limit not in row.values:
        return None
    value, against = middle(row.values[subject]), middle(row.values[limit])
    if row.unit in LESS:
        value, against = against, value
    return value / against if against else None


# ---- tables -------------------------------------------------------------------------------------------------

def cell(values):
    if not values:
        return "-"
    return short(middle(values)) + (f" ±{spread(values):.0f}%" if len(values) > 1 else "")


def lines_of(rows, heads, width, cells):
    """A table; a column is headed by lines, an empty one stands between two groups."""
    for line in itertools.zip_longest(*heads, fillvalue=""):
        yield " " * width + "".join(f"{word:>{WIDTH}}" for word in line)
    for _, group in itertools.groupby(rows, key=lambda row: row.group):
        shown = [(row, text) for row, text in ((row, cells(row)) for row in group) if set(text) != {"-"}]
        for row, text in shown:
            yield f"{row.name + ', ' + row.unit:<{width}}" + "".join(f"{c:>{WIDTH}}" for c in text)
        if shown:
            yield ""


def values_table(rows, subjects, width):
    for at in range(0, len(subjects), COLUMNS):
        part = subjects[at:at + COLUMNS]
        yield from lines_of(rows, [[s] for s in part], width, lambda row: [cell(row.values.get(s)) for s in part])


def ratios_table(rows, subjects, width):
    pairs = [(s, l) for s, l in LIMITS if s in subjects and l in subjects]
    compared = [row for row in rows if any(ratio(row, *pair) for pair in pairs)]
    if not compared:
        return
    yield "How many times as fast:"
    yield from lines_of(compared, [[s, "/ " + l] for s, l in pairs], width,
                        lambda row: [f"{x:.2f}" if (x := ratio(row, *pair)) else "-" for pair in pairs])


def series_table(series):
    """Requests by operation: those that each hundredth file takes, or more."""
    for name, of in series.items():
        if not name.startswith("requests"):
            continue
        each = {s: rounds[-1] for s, rounds in of.items()}
        yield f"{name:<{SERIES_WIDTH}}" + "".join(f"{s:>{WIDTH}}" for s in each)
        for operation in sorted({o for counts in each.values() for o in counts}, key=lambda o: -max(c.get(o, 0) for c in each.values())):
            if max(counts.get(operation, 0) for counts in each.values()) >= 0.01:
                yield f"{'    ' + operation:<{SERIES_WIDTH}}" + "".join(f"{counts.get(operation, 0):>{WIDTH}.2f}" for counts in each.values())
        yield ""


def scale_table(rows, subjects):
    """What grows to the right; in brackets, times what it is at the first point."""
    for axis in dict.fromkeys(row.point[1] for row in rows):
        here = [row for row in rows if row.point[1] == axis]
        points = list(dict.fromkeys(row.point[2] for row in here))
        yield f"{axis + ' of':<46}" + "".join(f"{p:>{WIDTH + 4}}" for p in points)
        for s in subjects:
            for what in dict.fromkeys(row.point[0] for row in here):
                of = {row.point[2]: row for row in here if row.point[0] == what and s in row.values}
                if not of:
                    continue
                unit = next(iter(of.values())).unit
                first = middle(of[points[0]].values[s]) if points[0] in of else 0
                cells = [(lambda m: f"{short(m)} ({m / first:.2f})" if first else short(m))(middle(of[p].values[s])) if p in of else "-"
                         for p in points]
                yield f"{s:<12}{what + ', ' + unit:<34}" + "".join(f"{c:>{WIDTH + 4}}" for c in cells)
        yield ""


def table(rows, subjects, series):
    plain, scaled = [r for r in rows if not r.point], [r for r in rows if r.point]
    shown = [s for s in subjects if any(s in r.values for r in plain)]
    if plain:
        width = max(len(r.name) + len(r.unit) for r in plain) + 3
        yield from values_table(plain, shown, width)
        yield from ratios_table(plain, shown, width)
    yield from series_table(series)
    yield from scale_table(scaled, subjects)


# ---- for programs -------------------------------------------------------------------------------------------

def write_json(path, about, rows, series):
    """A row of a scale also says of what it is a point."""
    with open(path, "w") as f:
        json.dump({**about, "results": [
            {**(dict(zip(("measure", "axis", "point"), r.point))), "group": r.group, "name": r.name, "unit": r.unit, "better": "less" if r.unit in LESS else "more", "values": r.values,
             "median": {s: middle(v) for s, v in r.values.items()}, "spread_percent": {s: spread(v) for s, v in r.values.items()}}
            for r in rows], "series": series}, f, indent=1)
        f.write("\n")


# ---- plots, by gnuplot ----------------------------------------------------------------------------------------

def gnuplot(directory, name, title, height, commands, data):
    """data: blocks of lines of words, each `$name` in the commands."""
    blocks = "".join(f"${block} << END\n" + "\n".join(lines) + "\nEND\n" for block, lines in data.items())
    script = (f"{blocks}set terminal svg size 1100,{height} noenhanced font 'sans,13' background '#ffffff'\n"
              f"set output '{os.path.join(directory, name)}.svg'\nset title \"{title}\"\nset key outside right top\n"
              f"set grid back lc '#dddddd'\nset border 3 lc '#666666'\nset tics nomirror\n{commands}\n")
    with open(os.path.join(directory, name + ".gnuplot"), "w") as f:
        f.write(script)
    subprocess.run(["gnuplot", os.path.join(directory, name + ".gnuplot")], check=True)


def colour(subject):
    return COLOURS.get(subject, "#444444")


def plot_group(directory, group, rows, subjects, title):
    """Bars: how fast, a limit being 1, in the rows that it has."""
    base = next((s for s in ("null-uring", "null-dev", "raw", "ext4", *subjects) if any(s in r.values for r in rows)))
    rows = [r for r in rows if base in r.values]
    subjects = [s for s in subjects if any(s in r.values for r in rows)]
    if len(subjects) < 2:
        return
    lines = [f'"{r.name}" ' + " ".join(f"{x:g}" if (x := ratio(r, s, base)) else "NaN" for s in subjects) for r in rows]
    bars = ", ".join(f"$rows using {i}:xtic(1) title '{s}' lc rgb '{colour(s)}'" for i, s in enumerate(subjects, 2))
    gnuplot(directory, group, f"{group}: times as fast as {base}; {title}", 560,
            "set style data histograms\nset style histogram clustered gap 2\nset style fill solid noborder\n"
            f"set xtics rotate by -35 scale 0\nset xrange [-0.7:{len(rows) - 0.3}]\nset logscale y\nset ylabel 'log scale'\nset format y '%g'\n"
            f"plot 1 notitle lc '#666666', {bars}", {"rows": lines})


def plot_burst(directory, of, title):
    """The last round, second by second."""
    lines = {s.replace("-", "_"): [f"{i} {rate:.1f}" for i, rate in enumerate(rounds[-1], 1)] for s, rounds in of.items()}
    curves = ", ".join(f"${s.replace('-', '_')} with linespoints pt 7 ps 0.5 lw 2 lc rgb '{colour(s)}' title '{s}'" for s in of)
    gnuplot(directory, "burst", f"a burst of more than the tier; {title}", 480,
            f"set xlabel 'second'\nset ylabel 'MB/s'\nset yrange [0:*]\nset xtics 1\nplot {curves}", lines)


def plot_scale(directory, rows, title):
    """What each costs, the first point being 1; the transport that comes first."""
    subject = next(s for r in rows for s in r.values)
    for axis in dict.fromkeys(r.point[1] for r in rows):
        here = [r for r in rows if r.point[1] == axis and subject in r.values]
        points, curves, blocks = list(dict.fromkeys(r.point[2] for r in here)), [], {}
        for what in dict.fromkeys(r.point[0] for r in here):
            of = {r.point[2]: middle(r.values[subject]) for r in here if r.point[0] == what}
            if not of.get(points[0]):
                continue
            name = "s%d" % len(blocks)
            blocks[name] = [f"{points.index(p)} {v / of[points[0]]:g}" for p, v in of.items()]
            curves.append(f"${name} with linespoints pt 7 lw 2 title '{what}'")
        tics = ", ".join(f"'{p}' {i}" for i, p in enumerate(points))
        if curves and len(points) > 1:
            gnuplot(directory, "scale-" + axis, f"{subject}, {axis} of so much: times what it takes at the first; {title}", 480,
                    f"set xtics ({tics})\nset logscale y\nset format y '%g'\nplot {', '.join(curves)}", blocks)


def plot(directory, rows, subjects, series, title):
    if not shutil.which("gnuplot"):
        return False
    for group in dict.fromkeys(r.group for r in rows if not r.point):
        here = [r for r in rows if r.group == group]
        plot_group(directory, group, here, [s for s in subjects if any(s in r.values for r in here)], title)
    for name, of in series.items():
        if name.startswith("burst"):
            plot_burst(directory, of, title)
    if scaled := [r for r in rows if r.point]:
        plot_scale(directory, scaled, title)
    return True
