"""Text of others, in every place where it is printed: nothing in it is obeyed."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from hfdbench.analysis.gate import GateReport, MetricChange
from hfdbench.cards.find import choose
from hfdbench.cards.schema import GateCard
from hfdbench.report import gate_text, tables, text

pytestmark = pytest.mark.faults

HOSTILE = [
    "US$5 vs US$7",
    "$x^{2}$ & 50 % of #1_a~b^c\\d {e}",
    "\x1b[31mred\x1b]0;title\x07 \x9b1m",
    "nul\x00 bell\x07 del\x7f bom\ufeff nonchar\ufffe",
    "line\r\nend\ttab\u2028sep",
    "right\u202eto left\u2066",
    "not utf-8 \udcff\udc80",
    "=cmd|' /C calc'!A0",
    "+1",
    "-2+3",
    "@SUM(A1)",
    " =1",
    "<script>alert(1)</script> &amp; ]]>",
    "**bold** `code` | cell | [link](http://x) <b> _it_ ~~gone~~",
    "[opt] after a line end",
    "* star",
    "漢字 ünïcode ∞",
]


@pytest.mark.parametrize("words", HOSTILE)
def test_plain_text_is_one_line_that_a_terminal_and_xml_can_show(words):
    shown = text.plain(words)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe]", shown)
    element = ElementTree.Element("a", b=shown)
    assert ElementTree.fromstring(ElementTree.tostring(element, encoding="utf-8")).get("b") == shown
    if words.isprintable():
        assert shown == words


@pytest.mark.parametrize("words", HOSTILE)
def test_every_form_of_a_table_stays_a_table(words):
    frame = pd.DataFrame({"codec": ["a", words], "bpp": [1.0, 2.0], "note": [words, ""]}, dtype=object)
    forms = {form: tables.render(frame, form) for form in tables.FORMATS}
    for form in forms.values():
        form.encode("utf-8")
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", form)
    assert len(forms["table"].splitlines()) == 4
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in forms["markdown"].splitlines())
    rows = list(csv.DictReader(io.StringIO(forms["csv"])))
    assert len(rows) == 2 and not rows[1]["codec"].lstrip().startswith(("=", "+", "-", "@"))
    assert json.loads(forms["json"])[1]["codec"] == words, "JSON keeps the text itself"
    body = forms["latex"].split("\\midrule")[1]
    bare = re.sub(r"\\[&%$#_{}\\]|\\text\w+\{\}|\$\\(infty|times)\$", "", body)
    assert not re.search(r"[$#_^~%]", bare) and body.count(r"\\") == 2 and not re.search(r"\\\\\s*[\[*]", body)


def test_negative_numbers_stay_numbers_in_csv():
    frame = tables.render(pd.DataFrame({"codec": ["a"], "kid": [-0.5]}), "csv")
    assert frame == "codec,kid\na,-0.5\n"


def test_wide_characters_keep_columns_aligned():
    lines = tables.render(pd.DataFrame({"codec": ["漢字", "ascii"], "bpp": [1.0, 2.0]})).splitlines()
    assert {text.width(line) for line in lines} == {text.width(lines[0])}


@pytest.mark.parametrize("words", HOSTILE)
def test_the_gates_files_are_valid_whatever_images_are_called(words):
    worse = MetricChange(words, "bpp", 1.0, 2.0, 1.0, 0.9, 1.1, 0.1, "worse", 0.0, 1.0, ((words, 1.0),))
    report = GateReport(
        Path("base"), choose(GateCard, ["default"])[0], (worse,), ((words, words),), (f"{words}: {words}",), (words,)
    )
    suite = ElementTree.fromstring(gate_text.junit(report).encode("utf-8"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "1")
    lines = gate_text.annotations(report)
    assert len(lines) == 3 and all(line.startswith("::error title=") and "\n" not in line for line in lines)
    summary = gate_text.markdown(report)
    summary.encode("utf-8")
    (row,) = [line for line in summary.splitlines() if "+100.0% [+90.0%, +110.0%]" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 8


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_sets_every_hostile_text(tmp_path):
    frame = pd.DataFrame({"codec": [words for words in HOSTILE if words.isascii()]})
    table = tables.render(frame, "latex")
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + table + "\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
