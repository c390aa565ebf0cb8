"""The pages: links lead somewhere, and the lines that they tell to add are accepted."""

import re
from pathlib import Path

import pytest

import mlsec_dagster as mlsec

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LOG = re.compile(r"mlsec\.(?:CloudTrail|S3AccessLogs|GCPAuditLogs|AzureMonitor|MLflow|WeightsAndBiases|Kubernetes)\([^)]*\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    headings = re.findall(r"^#{1,6} +(.+)$", without_code(page.read_text()), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


def links(page: Path) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())) if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


def test_every_page_can_be_reached() -> None:
    reached = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    assert {page for page in PAGES if page.parent != ROOT} <= reached


def test_every_log_that_a_page_tells_to_add_makes_a_sensor() -> None:
    lines = sorted({line for page in PAGES for line in LOG.findall(page.read_text())})
    assert {line.partition("(")[0].removeprefix("mlsec.") for line in lines} == {
        *("CloudTrail", "S3AccessLogs", "GCPAuditLogs", "AzureMonitor", "MLflow", "WeightsAndBiases", "Kubernetes")
    }
    for line in lines:
        source = eval(line, {"mlsec": mlsec})
        assert mlsec.build_audit_log_sensor(source=source).name == f"{source.kind}_audit_log"
