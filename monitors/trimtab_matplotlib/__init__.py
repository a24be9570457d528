"""Pages: what a window showed and what was decided, as one HTML file with Matplotlib's figures in it."""
