"""Which settings mattered, as bars and a table."""

from typing import Any

import altair as alt

from harness.report.page import vega
from harness.report.page.model import Section, Table, finite, percent, share
from harness.report.page.trials import label
from harness.report.studies import StudyFiles
from harness.study.importances import BEST_PART, importances, missing

TITLE = "Importance of each setting"


def importance_section(study: StudyFiles) -> tuple[Section, list[dict[str, Any]]]:
    """The importances, or why there are none; with the data of the bars."""
    why_not = missing(study.records, study.suite)
    if why_not is not None:
        return Section("importances", TITLE, (f"{why_not[0].upper()}{why_not[1:]}.",)), []
    found = importances(study.records, study.suite)
    rows = [{"setting": name, "importance": finite(part), "text": percent(part)} for name, part in found.items()]
    y = alt.Y("setting:N", sort=list(found), title=None, axis=alt.Axis(labelLimit=180))
    x = alt.X("importance:Q", title="share of the importance", axis=alt.Axis(format="%", tickCount=5))
    base = alt.Chart(vega.data("importances")).encode(x=x, y=y)
    bars = base.mark_bar(height={"band": 0.6})
    labels = base.mark_text(align="left", dx=4).encode(text="text:N")
    described = "; ".join(f"{name} {percent(part)}" for name, part in found.items())
    title = f"Importance for {label(study.suite.objectives[0].metric)}"
    chart = vega.made("importance-chart", title, described, alt.layer(bars, labels), vega.ROW * len(rows) + 10)
    text = (
        f"How much each setting sets the best {percent(BEST_PART)} of the trials apart from all of them (PED-ANOVA). "
        "It says nothing about the direction; the charts by setting do.",
    )
    table = Table.of(
        "importance-table", "Importances", ("setting", "share"), [(name, share(part)) for name, part in found.items()]
    )
    return Section("importances", TITLE, text, (chart,), (table,)), rows
