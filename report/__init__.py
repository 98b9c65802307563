"""How scores and cases are drawn, tabulated and written; no image is opened here."""

from mixseg.report.cases import CasePanel, cut_panels, plot_cases
from mixseg.report.curves import plot_curves
from mixseg.report.page import write_page
from mixseg.report.planes import select_slice, shown_channels, standard_planes
from mixseg.report.scores import read_metrics_csv, write_metrics_csv, write_summary
from mixseg.report.surfaces import CaseSurface, extract_surface, plot_surfaces
from mixseg.report.tables import markdown_table, mean_and_sd, score_table

__all__ = [
    "CasePanel",
    "CaseSurface",
    "cut_panels",
    "extract_surface",
    "markdown_table",
    "mean_and_sd",
    "plot_cases",
    "plot_curves",
    "plot_surfaces",
    "read_metrics_csv",
    "score_table",
    "select_slice",
    "shown_channels",
    "standard_planes",
    "write_metrics_csv",
    "write_page",
    "write_summary",
]
