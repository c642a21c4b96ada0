"""One page that shows the searches of a run: ``rain view``."""
