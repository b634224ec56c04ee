"""What the gate found, as Markdown, as JUnit XML and as annotations of a pull request."""

import os
from pathlib import Path
from xml.etree import ElementTree

from hfdbench.analysis.gate import GateReport, moved_text
from hfdbench.files.atomic import write_text
from hfdbench.metrics.registry import METRICS


def markdown(report: GateReport) -> str:
    """The summary: the verdict, what is worse with its worst images, what could not be compared, and every change."""
    points = list(dict.fromkeys(c.label for c in report.changes))
    verdict = {0: "passed", 1: "**failed**", 2: "**cannot compare**"}[report.exit_code]
    level = f"{report.card.level:.0%} intervals"
    lines = [f"## hfdbench gate: {verdict}", "", f"{len(points)} points against `{report.baseline}`, {level}.", ""]
    if report.worse:
        lines += ["| worse | metric | baseline | run | change | allowed | worst images |", "|" + " --- |" * 7]
        for c in report.worse:
            allowed = f"{c.tolerance:g} dB" if c.metric == "psnr_db" else f"{c.tolerance:.0%}"
            lines.append(
                f"| {c.label} | {METRICS[c.metric].name} | {c.baseline:.4g} | {c.run:.4g} | {c.moved} | {allowed} | {c.images} |"
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
            lines += [f"{title}:", "", *(f"- {item}" for item in items), ""]
    metrics = [name for name in METRICS if any(c.metric == name for c in report.changes)]
    if points:
        lines += ["| point | " + " | ".join(METRICS[name].name for name in metrics) + " |"]
        lines += ["| --- |" + " ---: |" * len(metrics)]
        changes = {(c.label, c.metric): moved_text(c.metric, c.change) for c in report.changes}
        for label in points:
            lines.append(f"| {label} | " + " | ".join(changes.get((label, name), "") for name in metrics) + " |")
    return "\n".join(lines).rstrip() + "\n"


def junit(report: GateReport) -> str:
    """JUnit XML: a case a metric of a point."""
    suite = ElementTree.Element("testsuite", name="hfdbench gate")
    for c in report.changes:
        case = ElementTree.SubElement(suite, "testcase", classname=c.label, name=c.metric)
        if c.verdict == "worse":
            message = f"{c}; allowed {c.tolerance:g}"
            ElementTree.SubElement(case, "failure", message=message).text = f"worst images: {c.images}"
    for label, what in report.failed:
        case = ElementTree.SubElement(suite, "testcase", classname=label, name="images")
        ElementTree.SubElement(case, "failure", message=what)
    for reason in report.refused:
        label, _, cause = reason.partition(": ")
        case = ElementTree.SubElement(suite, "testcase", classname=label, name="comparable")
        ElementTree.SubElement(case, "error", message=cause)
    for kind, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("errors", "testcase/error")):
        suite.set(kind, str(len(suite.findall(tag))))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def annotations(report: GateReport) -> list[str]:
    """Workflow commands that GitHub shows beside a pull request."""
    told = [("error", c.label, f"{c}; worst images: {c.images}") for c in report.worse]
    told += [("error", label, what) for label, what in report.failed]
    told += [("error", *reason.partition(": ")[::2]) for reason in report.refused]
    told += [("notice", c.label, f"{c}: better, worth accepting") for c in report.changes if c.verdict == "better"]
    return [f"::{kind} title={_escaped(label, ':,')}::{_escaped(text)}" for kind, label, text in told]


def _escaped(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:  # the percent sign first: it opens the escapes
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def tell(report: GateReport, junit_file: Path | None = None, markdown_file: Path | None = None) -> None:
    """Print the summary, write the files asked for, and speak to GitHub when it is listening."""
    text = markdown(report)
    print(text, end="")
    for path, content in ((junit_file, junit(report)), (markdown_file, text)):
        if path is not None:
            write_text(Path(path), content)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(text)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print("\n".join(annotations(report)))
