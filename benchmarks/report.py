"""Write all tables and plots of the documents again from results/*.json, without measuring.

python benchmarks/report.py
"""

import accuracy_report
import classifier_report
import cost_report
import decisions_report
import delicious_report
import ends_report
import exact_report
import kernels_report
import labels_report
import linear_report
import pairwise_report
import readme_report

REPORTS = [
    accuracy_report.REPORT,
    classifier_report.REPORT,
    cost_report.REPORT,
    decisions_report.REPORT,
    delicious_report.REPORT,
    ends_report.REPORT,
    exact_report.REPORT,
    kernels_report.REPORT,
    labels_report.REPORT,
    linear_report.REPORT,
    pairwise_report.REPORT,
    readme_report.REPORT,
]

if __name__ == "__main__":
    for report in REPORTS:
        report.write()
