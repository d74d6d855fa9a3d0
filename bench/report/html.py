"""One HTML page that holds a report, its scripts and its style; it loads nothing."""

import html
import json
import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
# The runs themselves are in the JSON file; the page needs their values only for the spread.
LEFT_OUT = {"runs"}


def read(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()


def data(report):
    """The report as JSON that can stand inside a script element."""
    parts = []
    for part in report["workloads"]:
        rows = []
        for row in part["allocators"]:
            kept = {key: value for key, value in row.items() if key not in LEFT_OUT}
            kept["values"] = [run["ops_per_s"] for run in row["runs"][part["left_out"] :]]
            rows.append(kept)
        parts.append({**part, "allocators": rows})
    text = json.dumps({**report, "workloads": parts}, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def page(report):
    title = "Comparison of allocators"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{read("page.css")}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><button id="theme" type="button">light / dark</button></header>
<p id="verdict">{html.escape(report["verdict"]["text"])}</p>
<main id="main"><noscript>This page draws its pictures with scripts of its own.</noscript></main>
<script type="application/json" id="data">{data(report)}</script>
<script>
{read("vendor/charts.js")}</script>
<script>
{read("page.js")}</script>
</body>
</html>
"""


def write(report, file):
    file.write(page(report))
