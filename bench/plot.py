#!/usr/bin/env python3
"""Draws the gaps that bench/latency.c and its twins saw.

bench/plot.py RESULTS PICTURE   from what bench/run --save wrote; - is stdin

A line says what share of a peer's gaps was longer than so much: it is drawn
from the histogram of that run whose p99.9 is the median. bench/run --markdown
draws docs/latency.svg so. The same results give the same file.

It needs matplotlib (Debian: python3-matplotlib), which the system's Python may
have where the one that runs this has not.
"""

import json
import pathlib
import subprocess
import sys

LOWEST_STEP = 0.95  # of the share before: about a pixel
PANELS = {"latency": "1 thread", "latency2": "2 threads"}
SYSTEM_PYTHON = "/usr/bin/python3"

# Colours that are told apart by whoever confuses red and green too (Okabe, Ito
# 2008): one for each collector, broken lines for its other mode.
STYLES = {
    "wane": ("Wane", "#0072b2", "-", 2.4),
    "wane-stw": ("Wane, world stopped", "#0072b2", (0, (4, 1.5)), 1.4),
    "go": ("Go", "#009e73", "-", 1.8),
    "bdwgc": ("bdwgc", "#d55e00", "-", 1.8),
    "bdwgc-incremental": ("bdwgc, incremental", "#d55e00", (0, (4, 1.5)), 1.4),
}
TIMES = {1e2: "100 ns", 1e3: "1 µs", 1e4: "10 µs", 1e5: "100 µs", 1e6: "1 ms",
         1e7: "10 ms", 1e8: "100 ms", 1e9: "1 s", 1e10: "10 s"}
SHARES = {1: "all", 1e-1: "1 in 10", 1e-2: "1 in 100 (p99)",
          1e-3: "1 in 1000 (p99.9)", 1e-4: "1 in 10 000", 1e-5: "1 in 100 000",
          1e-6: "1 in a million", 1e-7: "1 in 10 million",
          1e-8: "1 in 100 million"}


def is_complete(results):
    """Do the results have what there is to draw?"""
    return all(results.get(job, {}).get("wane") for job in PANELS)


def median_run(lines):
    """The run whose p99.9 is the median, or the better of the two."""
    return sorted(lines, key=lambda line: line["gap_p999_ns"])[
        (len(lines) - 1) // 2]


def points_of(gaps, longest):
    """For each length that was seen, the share of gaps that was longer, but for
    those that make a step too low to be seen. The last step goes on to the
    longest gap, of which there is at least one."""
    count = sum(n for _, n in gaps)
    rest, times, shares = count, [gaps[0][0]], [1]
    for ns, n in gaps:
        rest -= n
        if 0 < rest / count < shares[-1] * LOWEST_STEP:
            times.append(ns)
            shares.append(rest / count)
    return times + [longest], shares + shares[-1:]


def draw_panel(axes, lines):
    for peer, (name, colour, dashes, width) in STYLES.items():
        if not lines.get(peer):
            continue
        run = median_run(lines[peer])
        times, shares = points_of(run["gaps"], run["gap_max_ns"])
        axes.step(times, shares, where="post", color=colour, linestyle=dashes,
                  linewidth=width, label=name)
        axes.plot(times[-1:], shares[-1:], "o", color=colour, markersize=4.5,
                  markerfacecolor=colour if dashes == "-" else "white")


def set_scale(setter, ticks, low, high):
    """Marks those of the ticks that lie between, with their names."""
    inside = [at for at in ticks if low <= at <= high]
    setter(inside, [ticks[at] for at in inside])


def draw_figure(results, pyplot):
    figure, panels = pyplot.subplots(1, len(PANELS), sharex=True, sharey=True,
                                     figsize=(10, 4.8))
    figure.subplots_adjust(left=0.15, right=0.985, top=0.87, bottom=0.1,
                           wspace=0.06)
    for axes, (job, title) in zip(panels, PANELS.items()):
        draw_panel(axes, results[job])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.grid(True, color="#dddddd", linewidth=0.7)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("time for 16 replacements")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    low, high = panels[0].get_xlim()
    set_scale(panels[0].set_xticks, TIMES, low, high)
    low, high = panels[0].get_ylim()
    set_scale(panels[0].set_yticks, SHARES, low, high)
    panels[0].set_ylabel("share that took longer")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False,
                  loc="upper center", ncol=len(STYLES))
    return figure


def draw_here(results, path):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as pyplot
    matplotlib.rcParams.update({"svg.hashsalt": "wane", "font.size": 9,
                                "svg.fonttype": "path"})
    no_date = {"Date": None, "Creator": None} if path.suffix == ".svg" else {}
    draw_figure(results, pyplot).savefig(path, metadata=no_date,
                                         facecolor="white", dpi=150)


def has_matplotlib(python):
    try:
        return subprocess.run([python, "-c", "import matplotlib"],
                              stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def draw(results, path):
    """Draws by the first Python that can; False if the file stays as it is."""
    for python in (sys.executable, SYSTEM_PYTHON):
        if has_matplotlib(python):
            return subprocess.run([python, __file__, "-", str(path)], text=True,
                                  input=json.dumps(results)).returncode == 0
    print(f"no matplotlib, so {path} is not drawn: install python3-matplotlib",
          file=sys.stderr)
    return False


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    with (sys.stdin if sys.argv[1] == "-" else open(sys.argv[1])) as file:
        results = json.load(file)
    path = pathlib.Path(sys.argv[2])
    if not is_complete(results):
        print(f"no runs of {' and '.join(PANELS)}", file=sys.stderr)
        return 1
    if has_matplotlib(sys.executable):
        draw_here(results, path)
        return 0
    return 0 if sys.executable != SYSTEM_PYTHON and draw(results, path) else 1


if __name__ == "__main__":
    sys.exit(main())
