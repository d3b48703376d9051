"""From result rows to statistics, tables, figures and verdicts."""
