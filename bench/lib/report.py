# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians with spread, as a table for people, as JSON, and as plots."""
import json
import os
import shutil
import statistics
import subprocess

from .rows import LESS


def middle(values):
    return statistics.median(values)


def spread(values):
    return (max(values) - min(values)) / middle(values) * 100 if middle(values) else 0


def short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(unit, value, limit):
    if not value or not limit:
        return None
    return limit / value if unit in LESS else value / limit


def table(results, subjects, limits):
    """limits: subject -> the one that it is compared with."""
    shown = [s for s in subjects if any(s in r["values"] for r in results)]
    width = max(len(r["name"]) + len(r["unit"]) for r in results) + 2
    yield " " * width + "".join(f"{s:>16}" for s in shown)
    for r in results:
        cells = ""
        for s in shown:
            values = r["values"].get(s)
            cell = f"{short(middle(values))} ±{spread(values) / 2:.0f}%" if values else "-"
            cells += f"{cell:>16}"
        yield f"{r['name'] + ', ' + r['unit']:<{width}}{cells}"
    yield ""
    pairs = [(s, l) for s, l in limits if s in shown and l in shown]
    yield "times as fast as" + " " * (width - 16) + "".join(f"{s + '/' + l:>24}" for s, l in pairs)
    for r in results:
        cells = ""
        for s, l in pairs:
            have = s in r["values"] and l in r["values"]
            x = ratio(r["unit"], middle(r["values"][s]), middle(r["values"][l])) if have else None
            cells += f"{f'{x:.2f}' if x else '-':>24}"
        if cells.replace("-", "").strip():
            yield f"{r['name']:<{width}}{cells}"


def write_json(path, machine, results):
    with open(path, "w") as f:
        json.dump({"machine": machine, "results": [
            {**r, "median": {s: middle(v) for s, v in r["values"].items()}} for r in results]}, f, indent=1)
        f.write("\n")


def plot(directory, results):
    """One bar chart a group, by gnuplot if it is there."""
    if not shutil.which("gnuplot"):
        return
    for group in dict.fromkeys(r["group"] for r in results):
        rows = [r for r in results if r["group"] == group]
        subjects = list(dict.fromkeys(s for r in rows for s in r["values"]))
        data = os.path.join(directory, group + ".dat")
        with open(data, "w") as f:
            f.write("row " + " ".join(subjects) + "\n")
            for r in rows:
                values = [middle(r["values"][s]) if s in r["values"] else 0 for s in subjects]
                best = max(values) or 1
                f.write('"%s" %s\n' % (r["name"], " ".join("%g" % (v / best) for v in values)))
        script = (f"set terminal svg size 1200,500 noenhanced; set output '{os.path.join(directory, group)}.svg';"
                  "set style data histograms; set style fill solid; set xtics rotate by -30; set key outside;"
                  "set ylabel 'of the largest'; set yrange [0:1.1];"
                  f"plot for [i=2:{len(subjects) + 1}] '{data}' using i:xtic(1) title columnheader(i)")
        subprocess.run(["gnuplot", "-e", script], check=True)
