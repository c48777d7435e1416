"""One file a chapter: typed results in, words, figures and tables out."""
