"""From a study directory to a page and figures."""
