"""What the gate found, as Markdown, as JUnit XML and as annotations of a pull request."""

import os
from pathlib import Path
from xml.etree import ElementTree

from hfdbench.analysis.gate import GateReport, moved_text
from hfdbench.files.atomic import write_text
from hfdbench.metrics.registry import METRICS
from hfdbench.report import text


def markdown(report: GateReport) -> str:
    """The summary in Markdown: the verdict, what is worse with its worst images, what could not be compared, every change."""
    points = list(dict.fromkeys(c.label for c in report.changes))
    verdict = {0: "passed", 1: "**failed**", 2: "**cannot compare**"}[report.exit_code]
    level = f"{report.card.level:.0%} intervals"
    lines = [
        f"## hfdbench gate: {verdict}",
        "",
        f"{len(points)} points against {text.markdown(report.baseline)}, {level}.",
        "",
    ]
    if report.worse:
        lines += ["| worse | metric | baseline | run | change | allowed | worst images |", "|" + " --- |" * 7]
        for c in report.worse:
            allowed = f"{c.tolerance:g} dB" if c.metric == "psnr_db" else f"{c.tolerance:.0%}"
            lines.append(
                f"| {text.markdown(c.label)} | {METRICS[c.metric].name} | {c.baseline:.4g} | {c.run:.4g} | {c.moved} "
                f"| {allowed} | {text.markdown(c.images)} |"
            )
        lines.append("")
    for title, items in (
        ("Failed", [f"{label} {what}" for label, what in report.failed]),
        ("Cannot be compared", report.refused),
        (
            "Better beyond tolerance: worth accepting",
            [f"{c.label}: {c}" for c in report.changes if c.verdict == "better"],
        ),
        ("Notes", report.notes),
    ):
        if items:
            lines += [f"{title}:", "", *(f"- {text.markdown(item)}" for item in items), ""]
    metrics = [name for name in METRICS if any(c.metric == name for c in report.changes)]
    if points:
        lines += ["| point | " + " | ".join(METRICS[name].name for name in metrics) + " |"]
        lines += ["| --- |" + " ---: |" * len(metrics)]
        changes = {(c.label, c.metric): moved_text(c.metric, c.change) for c in report.changes}
        for label in points:
            lines.append(
                f"| {text.markdown(label)} | " + " | ".join(changes.get((label, name), "") for name in metrics) + " |"
            )
    return "\n".join(lines).rstrip() + "\n"


def junit(report: GateReport) -> str:
    """JUnit XML: a test case for each metric of each point, a failure for each that is worse, an error for each refusal."""
    suite = ElementTree.Element("testsuite", name="hfdbench gate")
    for c in report.changes:
        case = ElementTree.SubElement(suite, "testcase", classname=text.plain(c.label), name=c.metric)
        if c.verdict == "worse":
            message = text.plain(f"{c}; allowed {c.tolerance:g}")
            ElementTree.SubElement(case, "failure", message=message).text = text.plain(f"worst images: {c.images}")
    for label, what in report.failed:
        case = ElementTree.SubElement(suite, "testcase", classname=text.plain(label), name="images")
        ElementTree.SubElement(case, "failure", message=text.plain(what))
    for reason in report.refused:
        label, _, cause = reason.partition(": ")
        case = ElementTree.SubElement(suite, "testcase", classname=text.plain(label), name="comparable")
        ElementTree.SubElement(case, "error", message=text.plain(cause))
    for kind, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("errors", "testcase/error")):
        suite.set(kind, str(len(suite.findall(tag))))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def annotations(report: GateReport) -> list[str]:
    """Workflow commands that GitHub shows beside a pull request."""
    found = [("error", c.label, f"{c}; worst images: {c.images}") for c in report.worse]
    found += [("error", label, what) for label, what in report.failed]
    found += [("error", *reason.partition(": ")[::2]) for reason in report.refused]
    found += [("notice", c.label, f"{c}: better, worth accepting") for c in report.changes if c.verdict == "better"]
    return [f"::{kind} title={_escaped(label, ':,')}::{_escaped(what)}" for kind, label, what in found]


def _escaped(what: str, also: str = "") -> str:
    what = "\n".join(text.plain(line) for line in what.split("\n"))
    for character in "%\n" + also:  # the percent sign first: it opens the escapes
        what = what.replace(character, f"%{ord(character):02X}")
    return what


def tell(report: GateReport, junit_file: Path | None = None, markdown_file: Path | None = None) -> None:
    """Print the summary, write the files asked for, and annotate the pull request where GitHub runs it.

    Parameters
    ----------
    report : GateReport
        What the gate found.
    junit_file, markdown_file : Path, optional
        Files to write; their folders are made.
    """
    summary = markdown(report)
    print(summary, end="")
    for path, content in ((junit_file, junit(report)), (markdown_file, summary)):
        if path is not None:
            write_text(Path(path), content)
    if step_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(step_summary, "a", encoding="utf-8") as file:
            file.write(summary)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print("\n".join(annotations(report)))
