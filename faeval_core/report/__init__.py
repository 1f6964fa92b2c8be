"""What is shown: tables, figures, claims, studies, the audit, the paper's parts, the notebooks."""
