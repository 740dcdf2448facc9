"""What is shown of results: tables, figures, the page, films."""
