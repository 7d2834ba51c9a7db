"""The names of a report's files."""

REPORT_FILE = "report.md"
PAGE_FILE = "report.html"
LEARNING_CURVES_FILE = "learning_curves.png"
LEARNING_RATES_FILE = "accuracy_by_learning_rate.png"
STABILITY_FILE = "stability.png"
METRICS_TABLE_FILE = "metrics.csv"
SUMMARY_TABLE_FILE = "summary.csv"
EVENT_FOLDER = "tensorboard"
REPORT_FILES = (
    REPORT_FILE,
    PAGE_FILE,
    LEARNING_CURVES_FILE,
    LEARNING_RATES_FILE,
    STABILITY_FILE,
    METRICS_TABLE_FILE,
    SUMMARY_TABLE_FILE,
)
