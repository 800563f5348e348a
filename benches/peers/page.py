"""Results as JSON, as a table in the documentation, and as a picture."""

import json
import os
import statistics
from html import escape

# name: (heading, unit, divided by, digits)
MEASURES = {
    "established_pps": ("established", "M packets/s", 1e6, 3),
    "cpu_us": ("CPU per packet", "µs", 1, 2),
    "new_flow_pps": ("every packet a new flow", "M packets/s", 1e6, 3),
    "first_p50_us": ("first packet p50", "µs", 1, 0),
    "first_p99_us": ("first packet p99", "µs", 1, 0),
    "steady_p50_us": ("later packets p50", "µs", 1, 0),
    "steady_p99_us": ("later packets p99", "µs", 1, 0),
    "change_ms": ("change in effect after", "ms", 1, 1),
    "gbps": ("TCP, one stream", "Gb/s", 1, 1),
    "connections_per_second": ("TCP connections", "k/s", 1e3, 2),
    "load_s": ("load time", "s", 1, 2),
}
# Offered and refused packets of the run. If all offered packets arrived and hardly any had to wait, the generator was the
# limit, not the gateway.
OFFERED = {
    "established_pps": ("established_offered", "established_refused"),
    "new_flow_pps": ("new_flow_offered", "new_flow_refused"),
}
PICTURED = ["established_pps", "new_flow_pps", "cpu_us", "change_ms"]
OPEN, CLOSE = "<!-- peers -->\n", "<!-- end of peers -->"


def summary(results):
    """{services: {peer: {measure: (min, median, max)}}}"""
    collected = {}
    for row in results["runs"]:
        place = collected.setdefault(row["services"], {}).setdefault(row["peer"], {})
        for name, value in row["numbers"].items():
            place.setdefault(name, []).append(value)
    three = lambda values: (min(values), statistics.median(values), max(values))
    return {
        services: {peer: {name: three(values) for name, values in numbers.items()} for peer, numbers in peers.items()}
        for services, peers in collected.items()
    }


def is_bound(numbers, name):
    """Whether the generator may have been the limit."""
    if name not in OFFERED or name not in numbers:
        return False
    offered, refused = (numbers[other][1] for other in OFFERED[name])
    return offered < numbers[name][1] * 1.02 and refused < 0.05


def sign(numbers, name):
    """≥ if the generator was the limit. A poller then also had time to spin, so its CPU time is an upper bound."""
    if is_bound(numbers, name):
        return "≥ "
    idle = name == "cpu_us" and numbers.get("spins", [0, 0])[1] and is_bound(numbers, "established_pps")
    return "≤ " if idle else ""


def cell(numbers, name):
    if name not in numbers:
        return ""
    _, _, scale, digits = MEASURES[name]
    low, middle, high = (f"{value / scale:.{digits}f}" for value in numbers[name])
    return f"{sign(numbers, name)}**{middle}**" + ("" if low == high else f" ({low}–{high})")


def markdown(results):
    told, lines = summary(results), []
    machine = results["machine"]
    lines.append(
        f"{machine['cpus']} CPUs ({machine['cpu']}), Linux {machine['kernel']}; {results['rounds']} interleaved rounds, "
        f"**median** (minimum–maximum), {results['date']}; load average at the start {machine['load']}. ≥: the generator "
        "was the limit, so this is a lower bound; ≤: the CPU time of a poller then includes spinning. "
        "![Bar chart of these results](peers.svg)"
    )
    for services, peers in told.items():
        names = [name for name in MEASURES if any(name in numbers for numbers in peers.values())]
        lines += ["", f"**{services} Service{'s' if services > 1 else ''}**, 10 endpoints each:", ""]
        lines.append("| | " + " | ".join(f"{MEASURES[name][0]}, {MEASURES[name][1]}" for name in names) + " |")
        lines.append("|---" * (len(names) + 1) + "|")
        for peer, numbers in peers.items():
            note = results["notes"].get(peer)
            title = f"{peer} ({note})" if note else peer
            lines.append(f"| {title} | " + " | ".join(cell(numbers, name) for name in names) + " |")
    if results["missing"]:
        lines += ["", "Not measured: " + "; ".join(f"{peer} ({why})" for peer, why in results["missing"].items()) + "."]
    return "\n".join(lines) + "\n"


def into_document(path, text):
    """Puts the text between the markers."""
    with open(path, encoding="utf-8") as file:
        document = file.read()
    start, end = document.index(OPEN) + len(OPEN), document.index(CLOSE)
    with open(path, "w", encoding="utf-8") as file:
        file.write(document[:start] + "\n" + text + "\n" + document[end:])


def write_json(path, results):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


COLOURS = ["#1b6ca8", "#e08e0b", "#5a9e4b", "#a33b3b"]
ROW, GAP, LEFT, WIDTH, RIGHT, HEAD = 14, 10, 150, 420, 70, 54


def svg(results):
    """One panel per measure: bars from 0, whiskers from minimum to maximum."""
    told = summary(results)
    counts = list(told)
    panels, top = [], 58
    for name in PICTURED:
        panel, height = _panel(name, told, counts)
        if height:
            panels.append(f'<g transform="translate(0 {top})">{panel}</g>')
            top += height
    legend = "".join(
        f'<rect x="{LEFT + at * 130}" y="12" width="12" height="12" fill="{COLOURS[at % 4]}"/>'
        f'<text x="{LEFT + at * 130 + 18}" y="22">{count} Service{"s" if count > 1 else ""}</text>'
        for at, count in enumerate(counts)
    )
    machine = results["machine"]
    caption = (
        f"Bars: median of {results['rounds']} rounds; whiskers: minimum and maximum. {machine['cpus']} CPUs, "
        f"Linux {machine['kernel']}, {results['date']}"
    )
    legend += f'<text x="8" y="46" font-size="10">{escape(caption)}</text>'
    width = LEFT + WIDTH + RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}" '
        f'font-family="sans-serif" font-size="12" fill="#222"><title>pollgate compared with iptables, nftables and others</title><rect width="{width}" height="{top}" fill="#fff"/>'
        f"{legend}{''.join(panels)}</svg>\n"
    )


def _panel(name, told, counts):
    heading, unit, scale, digits = MEASURES[name]
    peers = [peer for peer in dict.fromkeys(p for c in counts for p in told[c]) if any(name in told[c].get(peer, {}) for c in counts)]
    if not peers:
        return "", 0
    most = max(told[c][peer][name][2] for c in counts for peer in peers if name in told[c].get(peer, {})) / scale
    step = _step(most)
    ticks = [step * n for n in range(int(most / step) + 2)]
    x = lambda value: LEFT + value / ticks[-1] * WIDTH
    parts, y = [], HEAD
    for peer in peers:
        block = len(counts) * ROW
        parts.append(f'<text x="{LEFT - 8}" y="{y + block / 2 + 4}" text-anchor="end">{escape(peer)}</text>')
        for at, count in enumerate(counts):
            three = told[count].get(peer, {}).get(name)
            if three:
                low, middle, high = (value / scale for value in three)
                mid = y + at * ROW + ROW / 2
                parts.append(f'<rect x="{LEFT}" y="{y + at * ROW + 1}" width="{x(middle) - LEFT:.1f}" height="{ROW - 2}" fill="{COLOURS[at % 4]}"/>')
                parts.append(f'<path d="M{x(low):.1f} {mid}H{x(high):.1f}M{x(low):.1f} {mid - 3}v6M{x(high):.1f} {mid - 3}v6" stroke="#222" fill="none"/>')
                mark = sign(told[count][peer], name)
                parts.append(f'<text x="{x(high) + 6:.1f}" y="{mid + 4}" font-size="10">{mark}{middle:.{digits}f}</text>')
        y += block + GAP
    axis = "".join(
        f'<path d="M{x(tick):.1f} {HEAD - 6}V{y}" stroke="#ccc"/><text x="{x(tick):.1f}" y="{HEAD - 10}" font-size="10" '
        f'text-anchor="middle">{tick:g}</text>'
        for tick in ticks
    )
    title = f'<text x="{LEFT}" y="{HEAD - 28}" font-weight="bold">{escape(heading)}, {escape(unit)}</text>'
    return title + axis + "".join(parts), y + 14


def _step(most):
    """A round number that divides the axis into two to five parts."""
    step = 10.0 ** -6
    while most / step > 5:
        step *= 2 if f"{step:e}"[0] in "15" else 2.5
    return step
